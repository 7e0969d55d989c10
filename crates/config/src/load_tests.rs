use super::*;
use std::cell::RefCell;
use std::collections::BTreeSet;

thread_local! {
    /// Keys that something asked for.
    pub(super) static TAKEN: RefCell<BTreeSet<&'static str>> = const { RefCell::new(BTreeSet::new()) };
}

const SMALL: &[(&str, &str)] = &[("peer.listen", "127.0.0.1:7400"), ("imap.listen_tls", ""), ("pop3.listen_tls", "")];

fn sources(flags: &[(&str, &str)]) -> Sources {
    Sources { flags: flags.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(), ..Sources::default() }
}

fn with_small(more: &[(&str, &str)]) -> Sources {
    sources(&[SMALL, more].concat())
}

fn messages(result: Result<Loaded, Problems>) -> Vec<String> {
    result.unwrap_err().0.into_iter().map(|p| p.message).collect()
}

#[test]
fn every_default_is_of_its_kind() {
    for setting in SETTINGS {
        assert_eq!(default_of(setting) == Value::Unset, !matches!(setting.default, Default::Is(_)), "{}", setting.key);
        let text = match setting.default {
            Default::Is(text) | Default::Derived { example: text, .. } | Default::Unset { example: text } => text,
        };
        let table: toml::Table = format!("v = {text}").parse().unwrap();
        setting.kind.check(&raw_of(table["v"].clone())).unwrap_or_else(|why| panic!("{}: {why}", setting.key));
    }
}

#[test]
fn nothing_is_parsed_and_ignored() {
    TAKEN.with_borrow_mut(BTreeSet::clear);
    load(&with_small(&[])).unwrap();
    let all: BTreeSet<_> = SETTINGS.iter().map(|s| s.key).collect();
    assert_eq!(TAKEN.with_borrow(Clone::clone), all);
}

#[test]
fn a_small_configuration_loads_with_derived_values() {
    let config = load(&with_small(&[("node.name", "n1"), ("auth.default_domain", "Demo.Test")])).unwrap().config;
    assert_eq!(config.node.advertise, "127.0.0.1:7400");
    assert_eq!(config.cluster.groups, 64);
    assert_eq!(config.auth.default_domain.as_deref(), Some("demo.test"));
    assert_eq!(config.lmtp.recipient_delimiter, Some('+'));
    assert_eq!(config.admin_socket(), PathBuf::from("/var/lib/parliament/admin.sock"));
    assert_eq!(config.tls_cluster, None);
}

#[test]
fn peers_off_loopback_need_certificates() {
    let told = messages(load(&sources(&[("imap.listen_tls", ""), ("pop3.listen_tls", "")])));
    assert_eq!(told, ["peer.listen = \"[::]:7400\" is not on loopback, and there is no [tls.cluster]"]);
    let tls = [("tls.cluster.ca", "/a"), ("tls.cluster.cert", "/b"), ("tls.cluster.key_file", "/c"), ("node.name", "mx1")];
    let mut flags = tls.to_vec();
    flags.extend([("imap.listen_tls", ""), ("pop3.listen_tls", "")]);
    let config = load(&sources(&flags)).unwrap().config;
    assert_eq!(config.node.advertise, "mx1:7400");
    assert_eq!(config.tls_cluster.unwrap().key_file, PathBuf::from("/c"));
}

#[test]
fn half_a_certificate_and_tls_without_one_are_told() {
    let told = messages(load(&with_small(&[("tls.cluster.ca", "/a"), ("imap.listen_tls", "127.0.0.1:993")])));
    assert_eq!(
        told,
        ["[tls.cluster] lacks tls.cluster.cert and tls.cluster.key_file", "imap.listen_tls listens with TLS, and there is no [tls.mail]"]
    );
}

#[test]
fn listeners_do_not_share_a_port() {
    let told = messages(load(&with_small(&[("imap.listen", "127.0.0.1:5000,0.0.0.0:5000"), ("lmtp.listen", "10.0.0.1:5000")])));
    assert_eq!(told, ["imap.listen and imap.listen both listen on port 5000", "lmtp.listen and imap.listen both listen on port 5000"]);
    assert!(load(&with_small(&[("imap.listen", "127.0.0.1:5000"), ("lmtp.listen", "127.0.0.2:5000")])).is_ok());
}

#[test]
fn all_problems_are_told_at_once() {
    let told = messages(load(&sources(&[("cluster.groups", "0"), ("cluster.replication", "2"), ("log.format", "xml")])));
    assert_eq!(told.len(), 6, "{told:?}");
    assert!(told.iter().any(|t| t.contains("cluster.groups wants a whole number from 1 to 1024, not \"0\"")), "{told:?}");
}

#[test]
fn flags_win_over_variables_over_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("p.toml");
    std::fs::write(&path, "[node]\nzone = \"file\"\nname = \"${NAME}\"\n[cluster]\nname = \"file\"\ngroups = 8\n").unwrap();
    let mut sources = with_small(&[("cluster.name", "flag")]);
    sources.file = Some(path.clone());
    sources.env = [("NAME", "n7"), ("PARLIAMENT_CLUSTER__NAME", "env"), ("PARLIAMENT_NODE__ZONE", "env")]
        .map(|(k, v)| (k.to_owned(), v.to_owned()))
        .into();
    let loaded = load(&sources).unwrap();
    let origin = |key: &str| loaded.values.iter().find(|v| v.key == key).unwrap().origin.clone();
    assert_eq!((loaded.config.cluster.name.as_str(), origin("cluster.name")), ("flag", Origin::Flag));
    assert_eq!((loaded.config.node.zone.as_str(), origin("node.zone")), ("env", Origin::Variable("PARLIAMENT_NODE__ZONE".into())));
    assert_eq!((loaded.config.cluster.groups, origin("cluster.groups")), (8, Origin::File(path, 6)));
    assert_eq!(loaded.config.node.name, "n7");
    assert_eq!(origin("http.listen"), Origin::Default);
    assert_eq!(loaded.values.len(), SETTINGS.len());

    sources.env.remove("NAME");
    let told = messages(load(&sources));
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].ends_with(":3: node.name: the variable NAME is not set"), "{told:?}");
}

#[test]
fn a_missing_file_is_told() {
    let mut sources = with_small(&[]);
    sources.file = Some("/nonexistent/p.toml".into());
    let problems = load(&sources).unwrap_err().0;
    assert_eq!(problems[0].code, UNREADABLE);
}

#[test]
fn files_that_settings_name_are_looked_at() {
    use std::os::unix::fs::PermissionsExt as _;
    let dir = tempfile::tempdir().unwrap();
    let (cert, key) = (dir.path().join("c"), dir.path().join("k"));
    std::fs::write(&cert, "").unwrap();
    std::fs::write(&key, "").unwrap();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();
    let flags = [("tls.mail.cert", cert.to_str().unwrap()), ("tls.mail.key_file", key.to_str().unwrap())];
    let config = load(&with_small(&flags)).unwrap().config;
    let told = check_files(&config);
    assert_eq!(told.len(), 1);
    assert!(told[0].message.contains("may be read by everyone (mode 0644)"));
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(check_files(&config), []);
    std::fs::remove_file(&cert).unwrap();
    assert_eq!(check_files(&config)[0].code, UNREADABLE);
}

#[test]
fn an_operator_needs_a_name_and_certificates_only() {
    let tls = [("cluster.name", "acme"), ("tls.cluster.ca", "/a"), ("tls.cluster.cert", "/b"), ("tls.cluster.key_file", "/c")];
    assert!(load(&sources(&tls)).is_err(), "the daemon needs more");
    let credentials = load_credentials(&sources(&tls)).unwrap();
    let files = ClusterTls { ca: "/a".into(), cert: "/b".into(), key_file: "/c".into() };
    assert_eq!(credentials, Credentials { cluster: "acme".into(), tls: Some(files) });
    assert_eq!(load_credentials(&sources(&tls[..2])).unwrap_err().0.len(), 1);
}

#[test]
fn a_bad_path_is_told_once() {
    let told = messages(load(&sources(&[("tls.cluster.ca", "ca.pem"), ("imap.listen_tls", ""), ("pop3.listen_tls", "")])));
    assert!(told[0].contains("wants an absolute path"), "{told:?}");
    assert!(told.iter().all(|line| !line.contains("there is no [tls.cluster]")), "{told:?}");
}
