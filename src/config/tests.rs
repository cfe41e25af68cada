use super::limits::LimitsSection;
use super::log::{LogFormat, LogSection};
use super::node::NodeConfig;
use super::*;

const SMALL: &str = "[node]\nname = \"agni\"\n";

fn read(
    text: &str,
    environment: &[(&str, &str)],
    flags: &[(&str, toml::Value)],
) -> Result<NodeConfig, Error> {
    let environment = environment.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let flags = flags.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
    load_text(Path::new("/x/node.toml"), text.to_owned(), environment, flags)
}

fn refused(text: &str, environment: &[(&str, &str)]) -> String {
    read(text, environment, &[]).unwrap_err().to_string()
}

#[test]
fn flags_win_over_the_environment_and_that_over_the_file() {
    // covers Q07, T21
    let text = format!("{SMALL}[mesh]\nheartbeat_ms = 500\n[log]\nlevel = \"debug\"\n");
    let config = read(&text, &[], &[]).unwrap();
    assert_eq!((config.mesh.heartbeat_ms, config.log.level.as_str()), (500, "debug"));
    assert_eq!(config.mesh.listen.to_string(), "[::]:8766");
    let environment =
        [("TRISHULA_MESH_HEARTBEAT_MS", "700"), ("TRISHULA_LOG_LEVEL", "trace"), ("PATH", "/bin")];
    let config = read(&text, &environment, &[]).unwrap();
    assert_eq!((config.mesh.heartbeat_ms, config.log.level.as_str()), (700, "trace"));
    let config = read(&text, &environment, &[("mesh.heartbeat_ms", 900.into())]).unwrap();
    assert_eq!(config.mesh.heartbeat_ms, 900);
}

#[test]
fn a_value_of_the_environment_is_toml_or_else_a_string() {
    // covers Q07
    let environment = [
        ("TRISHULA_NODE_NAME", "7"),
        ("TRISHULA_MESH_LISTEN", "[::]:9000"),
        ("TRISHULA_MESH_ADVERTISE", r#"["a.example.com:1", "192.0.2.1:2"]"#),
        ("TRISHULA_GATEWAY_NATIVE", "false"),
        ("TRISHULA_LOG_FORMAT", "json"),
    ];
    let config = read("", &environment, &[]).unwrap();
    assert_eq!(config.node.name.as_str(), "7");
    assert_eq!(config.mesh.listen.port(), 9000);
    assert_eq!(config.mesh.advertise[1].to_string(), "192.0.2.1:2");
    assert!(!config.gateway.native);
    assert_eq!(config.log.format, LogFormat::Json);
}

#[test]
fn an_unknown_key_is_shown_with_its_place_and_the_one_that_was_meant() {
    // covers Q07
    let error = refused(&format!("{SMALL}\n[mesh]\n  lisen = \"[::]:1\"\n"), &[]);
    assert!(
        error.starts_with("/x/node.toml:5:3: unknown key mesh.lisen (did you mean \"listen\"?)"),
        "{error}"
    );
    let keys = "[mesh] may hold listen, advertise, advertise_fallback, fallback_ca, heartbeat_ms, congestion";
    assert!(error.contains(keys), "{error}");
    let error = refused(&format!("{SMALL}[mehs]\nx = 1\n"), &[]);
    assert!(
        error.starts_with("/x/node.toml:3:2: unknown section [mehs] (did you mean \"mesh\"?)"),
        "{error}"
    );
    let error = refused(&format!("{SMALL}[[mesh.peers]]\nname = \"dc\"\nadress = 1\n"), &[]);
    assert!(
        error.contains(":5:1: unknown key mesh.peers[0].adress (did you mean \"addresses\"?)"),
        "{error}"
    );
}

#[test]
fn a_bad_value_is_shown_with_its_place_and_what_is_allowed() {
    // covers Q07, B19
    for (text, expected) in [
        (
            "[node]\nname = \"Agni\"\n",
            "node.toml:2:8: node.name: node name \"Agni\" is not a node name: lower-case",
        ),
        (
            "[node]\nname = 5\n",
            "node.toml:2:8: node.name: invalid type: integer `5`, expected a string: text in quotes",
        ),
        (
            "[node]\nname = \"a\"\n[mesh]\nlisten = \"8766\"\n",
            ":4:10: mesh.listen: \"8766\" is not an address to listen on",
        ),
        (
            "[node]\nname = \"a\"\n[mesh]\nadvertise = [\"a.example.com:1\", \"b\"]\n",
            ":4:13: mesh.advertise: \"b\" is not an address",
        ),
        (
            "[node]\nname = \"a\"\n[mesh]\nheartbeat_ms = 5\n",
            ":4:16: mesh.heartbeat_ms: 5 is not from 100 to 60000",
        ),
        (
            "[node]\nname = \"a\"\n[mesh]\ncongestion_floor_kib = 8\n",
            ":4:24: mesh.congestion_floor_kib: 8 is not from 16 to 4096 KiB",
        ),
        (
            "[node]\nname = \"a\"\n[mesh]\ncongestion = \"bbr2\"\n",
            ":4:14: mesh.congestion cannot be \"bbr2\" (did you mean \"bbr\"?); allowed are cubic, bbr",
        ),
        (
            "[node]\nname = \"a\"\n[log]\nformat = \"jsno\"\n",
            ":4:10: log.format cannot be \"jsno\" (did you mean \"json\"?); allowed are text, json",
        ),
        ("[node]\nname = \"a\"\n[log]\nlevel = \"loud\"\n", ":4:9: log.level: \"loud\" is not a log level"),
        ("[node]\n", "node.toml:1:1: node.name is missing; add the line `name = …` to [node]"),
        ("", "node.toml:1:1: the section [node] is missing"),
        ("[node\nname = \"a\"\n", "node.toml:1:6: "),
        ("[node]\nname = \"a\"\nname = \"b\"\n", "node.toml:3:1: duplicate key; keep one of the two"),
    ] {
        let error = refused(text, &[]);
        assert!(error.contains(expected), "{text:?}:\n   {error}\n   {expected}");
    }
}

#[test]
fn an_error_in_the_environment_names_the_variable() {
    // covers Q07
    for (name, value, expected) in [
        (
            "TRISHULA_MESH_LISEN",
            "x",
            "environment variable TRISHULA_MESH_LISEN: unknown key mesh.lisen (did you mean \"listen\"?)",
        ),
        (
            "TRISHULA_MESH_HEARTBEAT_MS",
            "soon",
            "TRISHULA_MESH_HEARTBEAT_MS: mesh.heartbeat_ms: invalid type: string \"soon\"",
        ),
        (
            "TRISHULA_MESH_HEARTBEAT_MS",
            "5",
            "TRISHULA_MESH_HEARTBEAT_MS: mesh.heartbeat_ms: 5 is not from 100",
        ),
        ("TRISHULA_NODE_NAME", "A B", "TRISHULA_NODE_NAME: node.name: node name \"A B\" is not a node name"),
        ("TRISHULA_MESH_A B", "1", "environment variable TRISHULA_MESH_A B: "),
    ] {
        let error = refused(SMALL, &[(name, value)]);
        assert!(error.contains(expected), "{name}:\n   {error}\n   {expected}");
    }
    // Not of a section that a node has: not ours to judge.
    assert!(read(SMALL, &[("TRISHULA_EDGE_NAME", "x"), ("TRISHULA_SECRET", "x")], &[]).is_ok());
}

#[test]
fn an_error_of_a_flag_names_its_key() {
    // covers Q07
    let error = read(SMALL, &[], &[("mesh.listen", "x".into())]).unwrap_err().to_string();
    assert!(error.starts_with("the command line's mesh.listen: "), "{error}");
}

#[test]
fn a_file_that_is_not_there_says_what_to_do() {
    // covers Q07
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    let error = NodeConfig::load(&path, std::iter::empty(), Vec::new()).unwrap_err().to_string();
    assert!(
        error.contains("node.toml") && error.contains("trishula init") && error.contains("--config"),
        "{error}"
    );
    std::fs::write(&path, [0xff, 0xfe]).unwrap();
    let error = NodeConfig::load(&path, std::iter::empty(), Vec::new()).unwrap_err().to_string();
    assert!(error.contains("UTF-8"), "{error}");
}

#[test]
fn values_must_go_together_and_paths_count_from_the_file() {
    // covers Q07
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("node.toml");
    let load = |text: &str| {
        std::fs::write(&path, text).unwrap();
        NodeConfig::load(&path, std::iter::empty(), Vec::new())
    };
    let peer = "[[mesh.peers]]\nname = \"dc\"\n";
    let error = load(&format!("{SMALL}{peer}{peer}")).unwrap_err().to_string();
    assert!(error.contains("mesh.peers[1].name: dc is there twice"), "{error}");
    let error = load(&format!("{SMALL}[[mesh.peers]]\nname = \"agni\"\n")).unwrap_err().to_string();
    assert!(error.contains("agni is this node itself"), "{error}");
    let config = load(&format!("{SMALL}data_dir = \"data\"\n[identity]\ndir = \"/id\"\n")).unwrap();
    assert_eq!(config.node.data_dir, folder.path().join("data"));
    assert_eq!(config.identity.dir, Path::new("/id"));
}

#[test]
fn the_reference_configuration_is_read_and_names_every_key() {
    // covers Q07
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/node.toml");
    let config = NodeConfig::load(&path, std::iter::empty(), Vec::new()).unwrap();
    assert_eq!(config.mesh.peers.len(), 2);
    let text = std::fs::read_to_string(&path).unwrap();
    for section in sections::of::<NodeConfig>() {
        assert!(text.contains(&format!("[{section}]")), "[{section}] is missing");
    }
    let has =
        |key: &str| text.lines().any(|line| line.trim_start_matches("# ").starts_with(&format!("{key} = ")));
    let sections = [
        sections::of::<node::NodeSection>(),
        sections::of::<node::IdentitySection>(),
        sections::of::<node::AdminSection>(),
        sections::of::<node::GatewaySection>(),
        sections::of::<LimitsSection>(),
        sections::of::<LogSection>(),
        sections::of::<node::PeerSection>(),
    ];
    for key in sections.into_iter().flatten() {
        assert!(has(key), "{key} is missing");
    }
    // The values that it shows are the defaults, save where it says otherwise.
    let small = read(SMALL, &[], &[]).unwrap();
    assert_eq!((config.admin.http, config.log, config.gateway), (small.admin.http, small.log, small.gateway));
    assert_eq!((config.mesh.listen, config.mesh.heartbeat_ms), (small.mesh.listen, small.mesh.heartbeat_ms));
    assert_eq!(config.limits, small.limits);
}

#[test]
fn limits_are_read_from_every_layer_and_kept_within_their_bounds() {
    // covers Q07
    let text = format!("{SMALL}[limits]\nmailbox_messages = 20\nnode_mib = 32\n");
    let environment = [("TRISHULA_LIMITS_NODE_MIB", "64"), ("TRISHULA_LIMITS_TAKEOVER_SECONDS", "5")];
    let limits = read(&text, &environment, &[("limits.node_mib", 128.into())]).unwrap().limits;
    let expected = LimitsSection {
        mailbox_messages: 20,
        node_mib: 128,
        takeover_seconds: 5,
        ..LimitsSection::default()
    };
    assert_eq!(limits, expected);
    for key in sections::of::<LimitsSection>() {
        for value in ["-1", "0", "9223372036854775807"] {
            let error = refused(&format!("{SMALL}[limits]\n{key} = {value}\n"), &[]);
            let begins = format!("/x/node.toml:4:{}: limits.{key}: {value} is not from ", key.len() + 4);
            assert!(error.starts_with(&begins) && error.contains("give a whole number"), "{error}");
        }
    }
    let error = refused(SMALL, &[("TRISHULA_LIMITS_REPLY_DEPTH", "deep")]);
    assert!(error.contains("TRISHULA_LIMITS_REPLY_DEPTH: limits.reply_depth: "), "{error}");
    let error = refused(SMALL, &[("TRISHULA_LIMITS_MAILBOX_MESSAGE", "20")]);
    assert!(error.contains("did you mean \"mailbox_messages\"?"), "{error}");
}

#[test]
fn ways_through_edges_are_checked_where_they_are_written() {
    // covers Q01, Q07, B19
    let peer = format!("{SMALL}[[mesh.peers]]\nname = \"dc\"\n");
    for (text, says) in [
        (format!("{SMALL}[mesh]\nadvertise_fallback = [\"agni.example.com\"]\n"), "begin with wss://"),
        (format!("{SMALL}[mesh]\nadvertise_fallback = \"wss://a/mesh\"\n"), "/x/node.toml:4:"),
        (format!("{peer}fallback = [\"wss://dc:99999\"]\n"), "from 1 to 65535"),
        (format!("{peer}falback = []\n"), "did you mean \"fallback\""),
    ] {
        let error = refused(&text, &[]);
        assert!(error.contains(says) && error.starts_with("/x/node.toml:"), "{text}: {error}");
    }
    let given = "[\"wss://agni.example.com\", \"wss://192.0.2.7:8765/mesh\"]";
    let config = read(SMALL, &[("TRISHULA_MESH_ADVERTISE_FALLBACK", given)], &[]).unwrap();
    assert_eq!(config.mesh.advertise_fallback[0].to_string(), "wss://agni.example.com:443/mesh");
    assert_eq!(config.mesh.advertise_fallback[1].port(), 8765);

    let together = |text: String| {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.toml");
        std::fs::write(&path, text).unwrap();
        NodeConfig::load(&path, std::iter::empty(), Vec::new()).map_err(|e| e.to_string())
    };
    let own = "wss://agni.example.com:443/mesh";
    let text = format!("[mesh]\nadvertise_fallback = [\"{own}\"]\n{peer}fallback = [\"{own}\"]\n");
    let error = together(text).unwrap_err();
    assert!(error.contains("mesh.peers[0].fallback") && error.contains("this node's own edge"), "{error}");
    let text = format!("{SMALL}[gateway]\nedge_socket = \"a.sock\"\nrelay_socket = \"a.sock\"\n");
    let error = together(text).unwrap_err();
    assert!(error.contains("gateway.relay_socket") && error.contains("path of its own"), "{error}");
    let text = format!("{SMALL}[mesh]\nfallback_ca = \"cas.pem\"\n[gateway]\nrelay_socket = \"r.sock\"\n");
    let config = together(text).unwrap();
    assert!(config.mesh.fallback_ca.unwrap().is_absolute() && config.gateway.relay_socket.is_absolute());
}
