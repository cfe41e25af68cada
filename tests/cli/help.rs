use super::Place;

const COMMANDS: &[&[&str]] = &[
    &["run"],
    &["init"],
    &["invite"],
    &["join"],
    &["cert", "show"],
    &["cert", "check"],
    &["cert", "renew"],
    &["cert", "revoke"],
    &["cert", "issue"],
    &["check"],
    &["token", "issue"],
    &["send"],
    &["listen"],
    &["request"],
    &["ping"],
    &["status"],
    &["agents"],
    &["show"],
    &["trace"],
    &["dlq", "list"],
    &["dlq", "show"],
    &["dlq", "retry"],
    &["dlq", "drop"],
    &["takeover"],
    &["store", "status"],
    &["store", "up"],
    &["store", "down"],
    &["store", "salvage"],
];

#[test]
fn every_command_has_help_with_examples() {
    // covers Q07, Q08
    let place = Place::new();
    let general = place.ok(&["--help"]);
    for command in COMMANDS {
        assert!(general.contains(command[0]), "{command:?} is not in the general help");
        let help = place.ok(&[command, &["--help"][..]].concat());
        assert_eq!(place.ok(&[&["help"][..], command].concat()), help, "as many would ask");
        let example = format!("trishula {}", command.join(" "));
        assert!(help.contains("Examples:") && help.contains(&example), "{command:?}:\n{help}");
        assert!(!help.contains("secret-key"), "{command:?}");
    }
}

#[test]
fn commands_that_read_print_json() {
    // covers Q08
    let place = Place::new();
    for command in [
        &["status"][..],
        &["agents"],
        &["ping"],
        &["check"],
        &["cert", "show"],
        &["cert", "check"],
        &["listen"],
        &["show"],
        &["trace"],
        &["takeover"],
        &["dlq", "list"],
        &["dlq", "show"],
        &["dlq", "retry"],
        &["dlq", "drop"],
        &["store", "status"],
        &["store", "salvage"],
    ] {
        let help = place.ok(&[command, &["--help"]].concat());
        assert!(help.contains("--json"), "{command:?}");
    }
}

#[test]
fn wrong_usage_is_exit_code_2() {
    // covers Q07
    let place = Place::new();
    for arguments in [
        &["nonsense"][..],
        &["init", "--nonsense"],
        &["cert"],
        &["join"],
        &["token", "issue", "x", "--ttl", "5"],
    ] {
        place.fails(2, arguments);
    }
    assert!(place.fails(2, &["staus"]).contains("status"), "a near command is suggested");
}

#[test]
fn a_reader_that_has_gone_is_no_failure() {
    // covers Q08
    use std::process::Stdio;
    let place = Place::with_mesh();
    let mut child = place
        .command(&["cert", "show", "--config", "mesh/dc/node.toml"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
}
