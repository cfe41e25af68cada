use std::path::Path;

use trishula::config::Error;
use trishula::wire::client::DEFAULT_MAX_FRAME;

use super::service::listen_default;
use super::*;
use crate::deflate;

fn load(text: &str) -> Result<EdgeConfig, Error> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.toml");
    std::fs::write(&path, text).unwrap();
    EdgeConfig::load(&path, std::iter::empty(), Vec::new())
}

#[test]
fn the_reference_configuration_is_read() {
    // covers T03
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/edge.toml");
    let config = EdgeConfig::load(&path, std::iter::empty(), Vec::new()).unwrap();
    assert_eq!(config.services[0].name.as_str(), "trishula");
    assert_eq!(config.services[0].listen, listen_default());
    assert_eq!(config.services[0].max_frame, DEFAULT_MAX_FRAME);
    assert_eq!(config.services[0].deflate, deflate::Settings::default());
    assert!(!config.services[0].echo);
    assert_eq!(config.metrics.listen, MetricsSection::default().listen);
    assert_eq!(config.uplink.nodes, UplinkSection::default().nodes);
    assert_eq!((config.relay.serve, config.relay.max_relays), (true, RelaySection::default().max_relays));
    assert_eq!(config.relay.socket, RelaySection::default().socket);
}

#[test]
fn unknown_keys_and_bad_values_say_where_and_what() {
    // covers T03
    let service = "[[service]]\nname = \"trishula\"\nsecret_file = \"s\"\n";
    for (text, says) in [
        ("[edge]\nnmae = \"x\"\n".to_owned(), "nmae"),
        (format!("{service}max_frmae = 5\n"), "edge.toml:4:"),
        (format!("{service}max_frame = \"big\"\n"), "edge.toml:4:"),
        (format!("{service}paths = [\"/mesh\"]\n"), "service trishula: paths: /mesh is where other nodes"),
        (format!("[relay]\nmax_relays = 0\n{service}"), "relay.max_relays: 0 is not from 1 to 4096"),
        (format!("[relay]\nsokcet = \"x\"\n{service}"), "sokcet"),
        (format!("{service}max_frame = 5\n"), "service trishula: max_frame: 5 is not from 1024"),
        (format!("{service}secret_env = \"S\"\n"), "give one of the two"),
        (
            format!("{service}[service.deflate]\nwindow_bits = 8\n"),
            "service trishula: deflate.window_bits: 8 is not from 9 to 15",
        ),
        (format!("{service}[service.deflate]\nlevle = 8\n"), "levle"),
        (format!("{service}echo = true\npaths = [\"/echo\"]\n"), "paths: /echo is taken by echo"),
        (format!("{service}listen = [\"localhost\"]\n"), "edge.toml:4:"),
        (format!("{service}listen = [\"localhost\"]\n"), "write IP:PORT, such as 0.0.0.0:8765"),
        (
            format!("{service}listen = []\n"),
            "edge.toml:4:1: service trishula: listen: is empty; give it an address",
        ),
        (
            format!("{service}max_message_size = 5\n"),
            "edge.toml:4:1: service trishula: max_frame: 5 is not from",
        ),
        (
            format!("{service}ping_interval = 0\n"),
            "edge.toml:4:1: service trishula: ping_interval_s: 0 is not",
        ),
        (
            format!("\n{service}[service.deflate]\nwindow_bits = 8\n"),
            "edge.toml:6:1: service trishula: deflate.",
        ),
        (format!("[edge]\n  threads = 0\n{service}"), "edge.toml:2:3: edge.threads: 0 is not from 1 to 64"),
        (
            "\n[[service]]\npreset = \"akosa\"\n".to_owned(),
            "edge.toml:3:1: service akosa: preset: \"akosa\" is none",
        ),
        ("\n[[service]]\nname = \"x\"\n".to_owned(), "edge.toml:2:1: service x: secret_file: is missing"),
        ("[[service]]\nauth = false\n".to_owned(), "edge.toml:1:1: service [0]: name: is missing"),
        (
            format!("{service}[[rule]]\nfrom = \"x\"\nto = \"trishula\"\npermissions = [\"p\"]\n"),
            "edge.toml:4:1: rule x to trishula: there is no service x",
        ),
        (
            format!("{service}listen = [\"127.0.0.1:1\"]\n{service}listen = [\"127.0.0.1:2\"]\n"),
            "edge.toml:6:1: service trishula: name: is there twice; give one [[service]] all its addresses in listen",
        ),
        ("[[service]]\nname = \"Trishula\"\n".to_owned(), "is not a namespace"),
        ("[[service]]\nname = \"trishula\"\n".to_owned(), "secret_file: is missing"),
        (String::new(), "without a [[service]]"),
        ("[edge\n".to_owned(), "edge.toml:1:"),
    ] {
        let error = load(&text).unwrap_err().to_string();
        assert!(error.contains(says) && error.contains("edge.toml"), "{text}: {error}");
    }
    // A value of the environment is not looked for in the file.
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.toml");
    let preset =
        "[edge]\nthreads = 1\n[[service]]\npreset = \"akosha\"\nsecret_file = \"s\"\nmax_connections = 9\n";
    std::fs::write(&path, preset).unwrap();
    for variable in ["TRISHULA_EDGE_THREADS", "AKOSHA_MAX_CONNECTIONS", "AKOSHA_WS_MAX_CONNECTIONS"] {
        let environment = [(variable.to_owned(), "0".to_owned())].into_iter();
        let error = EdgeConfig::load(&path, environment, Vec::new()).unwrap_err().to_string();
        assert!(error.contains(&format!("variable {variable}: ")) && error.contains("0 is not"), "{error}");
    }
    let nowhere = EdgeConfig::load(Path::new("/nowhere/edge.toml"), std::iter::empty(), Vec::new());
    assert!(nowhere.unwrap_err().to_string().contains("--config"));
}

#[test]
fn the_environment_wins_over_the_file_and_flags_over_both() {
    // covers T21
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("edge.toml");
    let text = "[log]\nlevel = \"warn\"\n[[service]]\nname = \"trishula\"\nsecret_file = \"s\"\n";
    std::fs::write(&path, text).unwrap();
    let environment = || [("TRISHULA_LOG_LEVEL".to_owned(), "debug".to_owned())].into_iter();
    assert_eq!(EdgeConfig::load(&path, environment(), Vec::new()).unwrap().log.level, "debug");
    let flags = vec![("log.level".to_owned(), toml::Value::from("trace"))];
    assert_eq!(EdgeConfig::load(&path, environment(), flags).unwrap().log.level, "trace");
    let bad = [("TRISHULA_EDGE_DRAIN_MS".to_owned(), "soon".to_owned())].into_iter();
    let error = EdgeConfig::load(&path, bad, Vec::new()).unwrap_err().to_string();
    assert!(error.contains("TRISHULA_EDGE_DRAIN_MS"), "{error}");
}
