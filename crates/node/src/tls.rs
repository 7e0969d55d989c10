//! Mutual TLS between nodes: both sides present a certificate of the cluster's CA, and connect to the cluster's name.

use crate::node::{Fatal, fatal};
use parliament_config::ClusterTls;
use parliament_rpc::PeerTls;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use std::sync::Arc;

/// Loads a node's (or an operator's) certificate and the CA it trusts.
pub(crate) fn load(files: &ClusterTls, cluster_name: &str) -> Result<PeerTls, Fatal> {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_file_iter(&files.ca).map_err(fatal("tls.cluster.ca"))? {
        roots.add(cert.map_err(fatal("tls.cluster.ca"))?).map_err(fatal("tls.cluster.ca"))?;
    }
    let roots = Arc::new(roots);
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.cert)
        .map_err(fatal("tls.cluster.cert"))?
        .collect::<Result<_, _>>()
        .map_err(fatal("tls.cluster.cert"))?;
    let key = PrivateKeyDer::from_pem_file(&files.key_file).map_err(fatal("tls.cluster.key_file"))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().map_err(fatal("tls.cluster.ca"))?;
    let server = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(fatal("tls.cluster"))?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain.clone(), key.clone_key())
        .map_err(fatal("tls.cluster.cert"))?;
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(fatal("tls.cluster"))?
        .with_root_certificates(roots)
        .with_client_auth_cert(chain, key)
        .map_err(fatal("tls.cluster.cert"))?;
    Ok(PeerTls { server: Arc::new(server), client: Arc::new(client), cluster_name: cluster_name.to_owned() })
}
