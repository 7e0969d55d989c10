//! Mutual TLS between nodes: both sides present a certificate of the cluster's CA, and connect to the cluster's name.

use crate::node::{Fatal, fatal};
use parliament_config::ClusterTls;
use parliament_rpc::PeerTls;
use rustls::client::WebPkiServerVerifier;
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
    let nodes = WebPkiServerVerifier::builder_with_provider(roots.clone(), provider.clone()).build().map_err(fatal("tls.cluster.ca"))?;
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
    Ok(PeerTls { server: Arc::new(server), client: Arc::new(client), nodes, cluster_name: cluster_name.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use parliament_ctl::{AdminError, Wiring, code, exit};
    use parliament_rpc::{PeerStream, Rank};
    use std::path::Path;
    use tokio::net::TcpListener;

    fn init_ca(dir: &Path, authority: &str, rest: &str) {
        let out = dir.join(authority);
        let line = format!("parliament init ca --json --out {} {rest}", out.display());
        let nobody = |_: &_, _| Err(AdminError::new(code::UNREACHABLE, exit::UNAVAILABLE, "nobody"));
        let wiring = Wiring { connect: Arc::new(nobody), serve: Box::new(|_| exit::BUG) };
        assert_eq!(parliament_ctl::run(line.split(' ').map(Into::into), wiring), exit::OK);
    }

    fn of(dir: &Path, authority: &str, name: &str) -> PeerTls {
        let dir = dir.join(authority);
        let files = ClusterTls { ca: dir.join("ca.pem"), cert: dir.join(format!("{name}.pem")), key_file: dir.join(format!("{name}.key")) };
        load(&files, "acme").unwrap()
    }

    async fn meet(server: &PeerTls, client: &PeerTls) -> Result<Rank, String> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let accept = async {
            let (tcp, _) = listener.accept().await.unwrap();
            PeerStream::accept(tcp, Some(server)).await
        };
        let (accepted, connected) = tokio::join!(accept, PeerStream::connect(&address, Some(client)));
        connected.map_err(|e| e.to_string())?;
        accepted.map(|(_, rank)| rank).map_err(|e| e.to_string())
    }

    #[tokio::test]
    async fn certificates_say_who_may_be_a_node() {
        let dir = std::env::temp_dir().join(format!("parliament-tls-{}", std::process::id()));
        init_ca(&dir, "ca", "--cluster acme --for n1 --for n2 --admin");
        init_ca(&dir, "ca", "--cluster other --for m1");
        init_ca(&dir, "stranger", "--cluster acme --for n3");
        let n1 = of(&dir, "ca", "n1");
        assert_eq!(meet(&n1, &of(&dir, "ca", "n2")).await, Ok(Rank::Node));
        assert_eq!(meet(&n1, &of(&dir, "ca", "admin")).await, Ok(Rank::Operator));
        assert!(meet(&n1, &of(&dir, "ca", "m1")).await.unwrap_err().contains("another cluster"));
        assert!(meet(&of(&dir, "ca", "m1"), &n1).await.is_err(), "nor does a node connect to another cluster's");
        assert!(meet(&of(&dir, "ca", "admin"), &n1).await.is_err(), "nor to an operator's certificate");
        assert!(meet(&n1, &of(&dir, "stranger", "n3")).await.is_err());
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
