use std::path::Path;

use trishula::config::Error;

use super::*;

fn load_in(text: &str, environment: &[(&str, &str)]) -> Result<EdgeConfig, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.toml");
    std::fs::write(&path, text).unwrap();
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    EdgeConfig::load(&path, environment, Vec::new())
}

fn preset(name: &str) -> String {
    format!("[[service]]\npreset = \"{name}\"\n")
}

/// The variables of an old environment's file.
fn old(name: &str) -> Vec<(String, String)> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/old_env").join(name);
    let text = std::fs::read_to_string(path).unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines.filter_map(|line| line.split_once('=')).map(|(name, value)| (name.into(), value.into())).collect()
}

fn borrowed(variables: &[(String, String)]) -> Vec<(&str, &str)> {
    variables.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect()
}

#[test]
fn a_preset_is_enough_and_the_file_wins_over_it() {
    // covers B01, B02
    let all: String = presets::names().filter(|name| *name != "trishula").map(preset).collect();
    let config = load_in(&all, &[]).unwrap();
    let ports: Vec<u16> = config.services.iter().map(|service| service.listen[0].port()).collect();
    assert_eq!(ports, [8765, 8690, 8686, 8692, 8693, 3042, 8684]);
    assert!(config.services.iter().all(|service| service.auth && service.secret_env.is_some()));
    let own = preset("mahavishnu")
        + "name = \"workflows\"\nport = 9000\nmax_connections = 5\nsecret_file = \"s\"\nping_timeout = 3\n\
           [[service.room]]\npattern = \"pool:*\"\nread = [\"*\"]\n";
    let service = &load_in(&own, &[]).unwrap().services[0];
    assert_eq!((service.name.as_str(), service.preset.as_deref()), ("workflows", Some("mahavishnu")));
    assert_eq!(service.listen, ["0.0.0.0:9000".parse().unwrap()]);
    assert_eq!((service.max_connections, service.message_rate_limit), (5, 100));
    assert_eq!((service.ping_interval_s, service.ping_timeout_s), (20, Some(3)));
    assert!(
        service.secret_env.is_none() && service.secret_file.is_some(),
        "one's own secret replaces the preset's"
    );
    let pools: Vec<_> = service.room.iter().filter(|rule| rule.pattern == "pool:*").collect();
    assert!(pools.len() == 1 && pools[0].read == ["*"], "one's own rule replaces the preset's: {pools:?}");
    assert!(service.room.iter().any(|rule| rule.pattern == "workflow:*"), "and the others stay");
}

#[test]
fn an_old_environment_works_as_it_is() {
    // covers B02
    let variables = old("mahavishnu.env");
    let config = load_in(&preset("mahavishnu"), &borrowed(&variables)).unwrap();
    let service = &config.services[0];
    assert_eq!(service.listen, ["0.0.0.0:8686".parse().unwrap()]);
    assert_eq!(service.cert.as_deref(), Some(Path::new("/etc/ssl/certs/mahavishnu.pem")));
    assert_eq!(service.key.as_deref(), Some(Path::new("/etc/ssl/private/mahavishnu-key.pem")));
    assert_eq!(service.secret_env.as_deref(), Some("MAHAVISHNU_JWT_SECRET"));
    assert_eq!((service.max_connections, service.message_rate_limit), (10_000, 100));
    assert_eq!((service.connection_timeout_s, service.token_expiry_s), (0, 3600), "who only listens stays");
    assert!(
        config.notes.iter().any(|note| note.starts_with("MAHAVISHNU_CONNECTION_TIMEOUT")),
        "{:?}",
        config.notes
    );
    assert!(service.tls && service.auth);
    assert_eq!((config.log.level.as_str(), config.log.format), ("warn", LogFormat::Json));
    assert!(config.notes.iter().any(|note| note.starts_with("MAHAVISHNU_REDIS_HOST")), "{:?}", config.notes);

    let all: String = presets::names().filter(|name| *name != "trishula").map(preset).collect();
    let variables = old("services.env");
    let config = load_in(&all, &borrowed(&variables)).unwrap();
    for service in &config.services {
        let variable = service.secret_env.as_deref().unwrap();
        assert!(variables.iter().any(|(name, _)| name == variable), "{variable}");
    }
    assert!(config.services[1].cert.is_some() && config.services[0].cert.is_none());
    assert!(config.notes.iter().any(|note| note.starts_with("REDIS_URL")), "{:?}", config.notes);
}

#[test]
fn where_an_old_server_took_a_hundred_clients_one_address_may_have_them_all() {
    // covers B02, B09
    for name in ["excalidraw-mcp", "fastblocks"] {
        let of = |more: &str, environment: &[(&str, &str)]| {
            let service = load_in(&(preset(name) + more), environment).unwrap().services.remove(0);
            (service.max_connections, service.max_connections_per_address)
        };
        assert_eq!(of("", &[]), (100, Some(100)));
        assert_eq!(
            of("max_connections = 500\n", &[]),
            (500, None),
            "the preset's share is of the preset's number"
        );
        assert_eq!(of("max_connections = 500\nmax_connections_per_address = 7\n", &[]), (500, Some(7)));
        assert_eq!(of("max_connections_per_address = 7\n", &[]), (100, Some(7)));
    }
    let more = [("FASTBLOCKS_MAX_CONNECTIONS", "500")];
    let service = load_in(&preset("fastblocks"), &more).unwrap().services.remove(0);
    assert_eq!((service.max_connections, service.max_connections_per_address), (500, None));
}

#[test]
fn where_nobody_needs_a_token_the_presets_of_old_allow_everything_and_say_so() {
    // covers B02, B05
    let all: String = presets::names().filter(|name| *name != "trishula").map(preset).collect();
    let config = load_in(&all, &[]).unwrap();
    assert!(config.services.iter().all(|service| service.anonymous_permissions.is_empty()));
    assert_eq!(config.warnings().count(), 0);
    let config = load_in(&all, &borrowed(&old("open.env"))).unwrap();
    for (service, warning) in config.services.iter().zip(config.warnings()) {
        assert!(!service.auth && service.anonymous_may_all(), "{}", service.name);
        let says = format!("service {}: nobody needs a token, and everybody may do everything", service.name);
        assert!(warning.starts_with(&says), "{warning}");
    }
    assert_eq!(config.warnings().count(), 7);
    let some = preset("akosha") + "auth = false\nanonymous_permissions = [\"akosha:read\"]\n";
    let config = load_in(&some, &[]).unwrap();
    assert_eq!(config.services[0].anonymous_permissions, ["akosha:read"], "the file wins over the preset");
    assert_eq!(config.warnings().count(), 0);
    let certified = preset("akosha") + "auth = false\nverify_client = true\nca_file = \"clients.pem\"\n";
    assert!(load_in(&certified, &[]).unwrap().services[0].anonymous_permissions.is_empty());
    let ours = "[[service]]\npreset = \"trishula\"\nauth = false\n";
    assert!(load_in(ours, &[]).unwrap().services[0].anonymous_permissions.is_empty());
}

#[test]
fn a_secret_that_tools_share_is_taken_where_there_is_none_of_its_own() {
    // covers B02
    let shared = ("BODAI_SHARED_SECRET", "x");
    let secret = |file: &str, environment: &[(&str, &str)]| {
        let service = load_in(file, environment).unwrap().services.remove(0);
        (service.secret_env, service.secret_file)
    };
    let named = |name: &str| (Some(name.to_owned()), None);
    assert_eq!(secret(&preset("crackerjack"), &[shared]), named("BODAI_SHARED_SECRET"));
    let own = ("CRACKERJACK_JWT_SECRET", "y");
    assert_eq!(secret(&preset("crackerjack"), &[shared, own]), named("CRACKERJACK_JWT_SECRET"));
    let with_file = preset("crackerjack") + "secret_file = \"s\"\n";
    assert!(secret(&with_file, &[shared]).1.is_some_and(|file| file.ends_with("s")));
    assert_ne!(secret(&preset("akosha"), &[shared]).0.as_deref(), Some("BODAI_SHARED_SECRET"));
}

#[test]
fn the_old_environment_wins_over_the_file_and_ours_over_it() {
    // covers B02, T21
    let file = preset("crackerjack") + "secret_file = \"s\"\nmax_connections = 3\nrequire_auth = true\n";
    let environment = [
        ("CRACKERJACK_JWT_SECRET", "x"),
        ("CRACKERJACK_MAX_CONNECTIONS", "7"),
        ("CRACKERJACK_AUTH_ENABLED", "false"),
        ("CRACKERJACK_LOG_LEVEL", "DEBUG"),
        ("CRACKERJACK_WS_CERT_FILE", ""),
        ("TRISHULA_LOG_LEVEL", "error"),
    ];
    let config = load_in(&file, &environment).unwrap();
    let service = &config.services[0];
    assert_eq!(service.secret_env.as_deref(), Some("CRACKERJACK_JWT_SECRET"));
    assert!(service.secret_file.is_none() && !service.auth && service.max_connections == 7);
    assert_eq!(config.log.level, "error");
    let certified = [("CRACKERJACK_VERIFY_CLIENT", "true"), ("CRACKERJACK_CA_FILE", "/etc/clients.pem")];
    let service = &load_in(&file, &certified).unwrap().services[0];
    assert_eq!(
        (service.verify_client, service.ca_file.as_deref()),
        (true, Some(Path::new("/etc/clients.pem")))
    );
    let ours = "[[service]]\npreset = \"trishula\"\n";
    let environment = [
        ("TRISHULA_JWT_SECRET", "s"),
        ("TRISHULA_LOG_LEVEL", "info,trishula=debug"),
        ("TRISHULA_PORT", "tcp://192.0.2.1"),
    ];
    let config = load_in(ours, &environment).unwrap();
    assert_eq!(config.log.level, "info,trishula=debug");
    assert_eq!(config.services[0].secret_env.as_deref(), Some("TRISHULA_JWT_SECRET"));
    let uncertified = [("CRACKERJACK_CA_FILE", "/etc/clients.pem")];
    assert_eq!(load_in(&file, &uncertified).unwrap().services[0].ca_file, None);
    for (name, value, says) in [
        ("CRACKERJACK_PORT", "many", "is not a port"),
        ("CRACKERJACK_TLS_ENABLED", "maybe", "neither true nor false"),
        ("CRACKERJACK_TOKEN_EXPIRY", "1h", "is not a number of seconds"),
        ("CRACKERJACK_VERIFY_CLIENT", "maybe", "neither true nor false"),
        ("CRACKERJACK_LOG_LEVEL", "loud", "is no level"),
    ] {
        let error = load_in(&file, &[(name, value)]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(says), "{error}");
    }
}

#[test]
fn services_on_one_port_must_be_told_apart() {
    // covers B01
    let both = |one: &str, other: &str| load_in(&format!("{one}{other}"), &[]);
    let trishula = "[[service]]\npreset = \"trishula\"\nsecret_file = \"s\"\n";
    assert_eq!(both(trishula, &preset("session-buddy")).unwrap().services.len(), 2, "by the first frame");
    let at = |name: &str, more: &str| preset(name) + "listen = [\"0.0.0.0:443\"]\n" + more;
    let error = both(&at("akosha", ""), &at("dhruva", "")).unwrap_err().to_string();
    assert!(error.contains("nothing tells akosha and dhruva apart"), "{error}");
    let named = at("dhruva", "names = [\"ws-dhruva.example.com\"]\n");
    assert!(both(&at("akosha", ""), &named).is_ok(), "by name");
    let same = at("akosha", "names = [\"WS-dhruva.example.com\"]\n");
    assert!(both(&same, &named).is_err(), "the same name");
    let auto =
        "[[service]]\nname = \"any\"\ndialect = \"auto\"\nsecret_file = \"s\"\nlisten = [\"0.0.0.0:443\"]\n";
    assert!(both(auto, &at("akosha", "")).is_err(), "auto takes all");
    // A handshake says which host is meant, and not what will be spoken.
    let asking = "ca_file = \"cas.pem\"\n";
    let buddy = at("session-buddy", asking);
    let error = both(&at("akosha", ""), &buddy).unwrap_err().to_string();
    assert!(
        error.contains("service session-buddy: ca_file: ") && error.contains("give one of them names"),
        "{error}"
    );
    assert!(both(&at("akosha", asking), &buddy).is_ok(), "the same");
    assert!(both(&at("akosha", "names = [\"a.example.com\"]\n"), &buddy).is_ok(), "by name");
}

#[test]
fn what_does_not_go_together_is_refused() {
    // covers B02, B05
    for (text, says) in [
        (preset("nobody"), "\"nobody\" is none; there are trishula, session-buddy"),
        (preset("akosha") + "anonymous_permissions = [\"*\"]\n", "auth demands one of everybody"),
        (
            preset("akosha") + "host = \"127.0.0.1\"\nlisten = [\"127.0.0.1:1\"]\n",
            "goes not together with listen",
        ),
        (preset("akosha") + "[[service.room]]\npattern = \"a*b\"\n", "\"a*b\" is no pattern"),
        (preset("akosha") + "[[service.room]]\npattern = \"a\"\nraed = []\n", "raed"),
        (
            preset("akosha") + "[[service.request]]\nevent = \"auth\"\n",
            "request.event: \"auth\" is none of a service's",
        ),
        (preset("akosha") + "[[service.request]]\nneeds = []\n", "event"),
        (preset("akosha") + "dialect = \"klingon\"\n", "edge.toml:3"),
        (preset("akosha") + "byte_rate_limit = 5\n", "is less than max_frame"),
        (preset("akosha") + "message_rate_limit = -1\n", "edge.toml:3"),
        (
            preset("akosha") + "[[rule]]\nfrom = \"x\"\nto = \"akosha\"\npermissions = [\"p\"]\n",
            "there is no service x",
        ),
        (
            preset("akosha") + "[[rule]]\nfrom = \"akosha\"\nto = \"akosha\"\npermissions = [\"p\"]\n",
            "in one",
        ),
        ("[[service]]\nsecret_file = \"s\"\n".into(), "name: is missing"),
    ] {
        let error = load_in(&text, &[]).unwrap_err().to_string();
        assert!(error.contains(says), "{text}: {error}");
    }
}
