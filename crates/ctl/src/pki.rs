//! The cluster's certificate authority and the certificates it signs.

use crate::error::AdminError;
use rcgen::{BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, SerialNumber};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// Days that a certificate authority is valid.
const CA_DAYS: u32 = 3650;
/// The name of every authority that this makes. It is always the same, so that its key is enough to sign further certificates
/// later; authorities are told apart by their keys.
const CA_NAME: &str = "Parliament cluster CA";

/// A certificate and its key on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFiles {
    /// The certificate, PEM.
    pub cert: PathBuf,
    /// Its key, PEM, mode 0600.
    pub key: PathBuf,
}

/// Whom a certificate is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// A node: serves and connects.
    Node,
    /// An operator: connects only, so that it can never pass as a node.
    Admin,
    /// Mail clients: serves only.
    Mail,
}

/// A certificate authority in a folder: `ca.pem` and `ca.key`.
pub struct Authority {
    dir: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Opens the authority of a folder, or makes one there (mode 0700); the flag says which.
    ///
    /// # Errors
    /// When a file cannot be read or written, or the key is none.
    pub fn open_or_make(dir: &Path) -> Result<(Self, bool), AdminError> {
        let (cert_path, key_path) = (dir.join("ca.pem"), dir.join("ca.key"));
        if key_path.exists() {
            let pem = std::fs::read_to_string(&key_path).map_err(|e| AdminError::file(&key_path, e))?;
            let key = KeyPair::from_pem(&pem).map_err(|e| AdminError::file(&key_path, e))?;
            if !cert_path.exists() {
                return Err(
                    AdminError::file(&cert_path, "is missing beside ca.key").with_hint("bring it back, or name another folder with --out")
                );
            }
            return Ok((Self { dir: dir.to_owned(), issuer: Issuer::new(ca_params()?, key) }, false));
        }
        make_private_dir(dir)?;
        let key = KeyPair::generate().map_err(|e| AdminError::file(&key_path, e))?;
        let params = ca_params()?;
        let cert = params.self_signed(&key).map_err(|e| AdminError::file(&cert_path, e))?;
        write_new(&key_path, key.serialize_pem().as_bytes(), 0o600)?;
        write_new(&cert_path, cert.pem().as_bytes(), 0o644)?;
        Ok((Self { dir: dir.to_owned(), issuer: Issuer::new(params, key) }, true))
    }

    /// Path of the authority's certificate.
    #[must_use]
    pub fn cert(&self) -> PathBuf {
        self.dir.join("ca.pem")
    }

    /// Signs a new key for these names (DNS names or addresses), into `<stem>.pem` and `<stem>.key` of the authority's folder.
    pub(crate) fn issue(&self, stem: &str, purpose: &Purpose, names: &[String], days: u32) -> Result<CertificateFiles, AdminError> {
        let files = CertificateFiles { cert: self.dir.join(format!("{stem}.pem")), key: self.dir.join(format!("{stem}.key")) };
        let bad = |e: rcgen::Error| AdminError::usage(format!("a certificate for {}: {e}", names.join(", ")));
        let mut params = CertificateParams::new(names.to_vec()).map_err(bad)?;
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, stem);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = match purpose {
            Purpose::Node => vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth],
            Purpose::Admin => vec![ExtendedKeyUsagePurpose::ClientAuth],
            Purpose::Mail => vec![ExtendedKeyUsagePurpose::ServerAuth],
        };
        params.use_authority_key_identifier_extension = true;
        stamp(&mut params, days)?;
        let key = KeyPair::generate().map_err(bad)?;
        let cert = params.signed_by(&key, &self.issuer).map_err(bad)?;
        write_new(&files.key, key.serialize_pem().as_bytes(), 0o600)?;
        write_new(&files.cert, cert.pem().as_bytes(), 0o644)?;
        Ok(files)
    }
}

fn ca_params() -> Result<CertificateParams, AdminError> {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, CA_NAME);
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
    stamp(&mut params, CA_DAYS)?;
    Ok(params)
}

/// Sets the validity, from the day before today (clocks differ), and a random serial number.
fn stamp(params: &mut CertificateParams, days: u32) -> Result<(), AdminError> {
    let today = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs() / 86_400);
    let at = |day: u64| {
        let (year, month, day) = civil(day);
        rcgen::date_time_ymd(year, month, day)
    };
    params.not_before = at(today.saturating_sub(1));
    params.not_after = at(today + u64::from(days));
    let mut serial = crate::credential::random::<16>()?;
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(())
}

/// Year, month and day of the n-th day since 1970-01-01 (the well-known reckoning by 400-year eras that begin in March).
fn civil(days: u64) -> (i32, u8, u8) {
    let z = days + 719_468;
    let (era, day_of_era) = (z / 146_097, z % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let small = |n: u64| u8::try_from(n).unwrap_or(1);
    (i32::try_from(year).unwrap_or(i32::MAX), small(month), small(day))
}

/// Makes a folder that only its owner may enter.
pub(crate) fn make_private_dir(dir: &Path) -> Result<(), AdminError> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(|e| AdminError::file(dir, e))
}

/// Writes a file that must not exist yet.
pub(crate) fn write_new(path: &Path, bytes: &[u8], mode: u32) -> Result<(), AdminError> {
    let mut file = std::fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(|e| {
        let error = AdminError::file(path, &e);
        if e.kind() == std::io::ErrorKind::AlreadyExists { error.with_hint("it is not overwritten: move it away first") } else { error }
    })?;
    file.write_all(bytes).and_then(|()| file.sync_all()).map_err(|e| AdminError::file(path, e))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn days_become_dates() {
        assert_eq!(civil(0), (1970, 1, 1));
        assert_eq!(civil(59), (1970, 3, 1));
        assert_eq!(civil(11_016), (2000, 2, 29));
        assert_eq!(civil(19_782), (2024, 2, 29));
        assert_eq!(civil(20_819), (2027, 1, 1));
    }

    #[test]
    fn an_authority_is_made_once_and_signs_later_too() {
        let dir = tempfile::tempdir().unwrap();
        let at = dir.path().join("ca");
        let (first, made) = Authority::open_or_make(&at).unwrap();
        assert!(made);
        let names = ["n1".to_owned(), "demo".to_owned(), "127.0.0.1".to_owned()];
        let files = first.issue("n1", &Purpose::Node, &names, 30).unwrap();
        let mode = |p: &Path| std::fs::metadata(p).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&files.key), mode(&at.join("ca.key")), mode(&at)), (0o600, 0o600, 0o700));
        let ca = std::fs::read(first.cert()).unwrap();
        let (second, made) = Authority::open_or_make(&at).unwrap();
        assert!(!made);
        assert_eq!(std::fs::read(second.cert()).unwrap(), ca);
        assert!(second.issue("n1", &Purpose::Node, &names, 30).is_err(), "a key is never overwritten");
        second.issue("n2", &Purpose::Node, &names, 30).unwrap();
    }

    /// Shakes hands over buffers; tells whether both sides were content.
    fn handshake(ca: &Path, server: &CertificateFiles, client: &CertificateFiles, name: &str) -> Result<(), rustls::Error> {
        use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject as _};
        use std::sync::Arc;
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let load = |files: &CertificateFiles| {
            let cert = CertificateDer::from_pem_file(&files.cert).unwrap();
            (vec![cert], PrivateKeyDer::from_pem_file(&files.key).unwrap())
        };
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(ca).unwrap()).unwrap();
        let roots = Arc::new(roots);
        let verifier = rustls::server::WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).build().unwrap();
        let (certs, key) = load(server);
        let builder = rustls::ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().unwrap();
        let server = builder.with_client_cert_verifier(verifier).with_single_cert(certs, key)?;
        let (certs, key) = load(client);
        let builder = rustls::ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
        let client = builder.with_root_certificates(roots).with_client_auth_cert(certs, key)?;
        let mut server = rustls::ServerConnection::new(Arc::new(server))?;
        let mut client = rustls::ClientConnection::new(Arc::new(client), name.to_owned().try_into().unwrap())?;
        for _ in 0..4 {
            let mut bytes = Vec::new();
            while client.wants_write() {
                client.write_tls(&mut bytes).unwrap();
            }
            server.read_tls(&mut bytes.as_slice()).unwrap();
            server.process_new_packets()?;
            bytes.clear();
            while server.wants_write() {
                server.write_tls(&mut bytes).unwrap();
            }
            client.read_tls(&mut bytes.as_slice()).unwrap();
            client.process_new_packets()?;
        }
        assert!(!client.is_handshaking() && !server.is_handshaking());
        Ok(())
    }

    #[test]
    fn nodes_accept_each_other_and_operators_but_no_operator_as_a_node() {
        let dir = tempfile::tempdir().unwrap();
        let (authority, _) = Authority::open_or_make(&dir.path().join("ca")).unwrap();
        let n1 = authority.issue("n1", &Purpose::Node, &["n1".into(), "east".into()], 30).unwrap();
        // An authority that was opened again must sign what its certificate made earlier vouches for.
        let (authority, _) = Authority::open_or_make(&dir.path().join("ca")).unwrap();
        let n2 = authority.issue("n2", &Purpose::Node, &["n2".into(), "east".into(), "127.0.0.1".into()], 30).unwrap();
        let admin = authority.issue("admin", &Purpose::Admin, &["east".into()], 30).unwrap();
        let ca = authority.cert();
        for name in ["n2", "east", "127.0.0.1"] {
            handshake(&ca, &n2, &n1, name).unwrap();
        }
        handshake(&ca, &n1, &admin, "east").unwrap();
        assert!(handshake(&ca, &n1, &n2, "n2").is_err(), "another node's name");
        assert!(handshake(&ca, &admin, &n1, "east").is_err(), "an operator's certificate serves nobody");
        let (other, _) = Authority::open_or_make(&dir.path().join("other")).unwrap();
        let stranger = other.issue("n3", &Purpose::Node, &["n3".into(), "east".into()], 30).unwrap();
        assert!(handshake(&ca, &n1, &stranger, "n1").is_err(), "another authority of the same name");
    }
}
