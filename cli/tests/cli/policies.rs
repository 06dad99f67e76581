use super::run::{Folder, policy, probes};

#[test]
fn a_policy_that_the_api_server_would_refuse_is_refused_with_its_place() {
    let folder = Folder::new();
    folder.write("p.yaml", policy("window: soon").as_bytes());
    let expect = "error: p.yaml:4:33: The ProbePolicy \"gw\" is invalid: spec.window: Invalid value: \"soon\": \
                  window is a duration from 1s to 24h, such as 90s, 2m or 24h\n";
    for command in ["replay", "explain"] {
        let ended = folder.run(&[command, "-p", "p.yaml"], b"");
        assert_eq!((ended.code, ended.out.as_str(), ended.err.as_str()), (Some(1), "", expect));
    }
    let ended = folder.run(&["replay", "-p", "nowhere.yaml"], b"");
    assert_eq!(ended.err, "error: nowhere.yaml: No such file or directory\n");
}

#[test]
fn wrong_usage_is_told_from_what_can_not_be_read() {
    let folder = Folder::with_policy("");
    for wrong in [
        &["replay"][..],
        &["replay", "-p", "p.yaml", "--since", "yesterday"],
        &["replay", "-p", "p.yaml", "--since", "24h", "access.log"],
        &["replay", "-p", "p.yaml", "--namespace", "web"],
        &["explain", "-p", "p.yaml", "-o", "xml"],
        &["replay", "-p", "p.yaml", "--kubeconfig", "kubeconfig"],
        &["ban"],
        &["help", "ban"],
    ] {
        let ended = folder.run(wrong, b"");
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{wrong:?}");
        assert!(!ended.err.contains('\x1b'), "no colour unless on a terminal: {}", ended.err);
    }
    let version = folder.run(&["version"], b"");
    assert_eq!(version.out, format!("{}\n", env!("CARGO_PKG_VERSION")));
}

#[test]
fn help_for_a_command_is_asked_for_in_either_way() {
    let folder = Folder::new();
    for command in ["replay", "explain", "completion", "version"] {
        let [asked, option] = [&["help", command], &[command, "--help"]].map(|words| folder.run(words, b""));
        assert_eq!((asked.code, asked.err.as_str()), (Some(0), ""), "{command}");
        assert!(asked.out.contains(&format!("Usage: kubectl ip-sentry {command}")), "{}", asked.out);
        assert_eq!(asked.out, option.out);
    }
}

#[test]
fn a_policy_may_come_from_standard_input_and_then_nothing_else_may() {
    let folder = Folder::with_policy("");
    folder.write("access.log", probes("203.0.113.7", 0).as_bytes());
    let from_stdin = folder.run(&["replay", "-p", "-", "access.log", "-o", "json"], policy("").as_bytes());
    assert_eq!(from_stdin.banned(), ["203.0.113.7/32"]);
    let explained = folder.run(&["explain", "-p", "-", "access.log"], policy("").as_bytes());
    assert_eq!((explained.code, explained.out.lines().count()), (Some(0), 4), "{}", explained.err);
    let wrong = folder.run(&["replay", "-p", "-", "access.log"], policy("window: soon").as_bytes());
    assert!(
        wrong.err.starts_with("error: standard input:4:33: The ProbePolicy \"gw\" is invalid"),
        "{}",
        wrong.err
    );
    for twice in [
        &["replay", "-p", "-"][..],
        &["replay", "-p", "-", "-"],
        &["replay", "-p", "-", "--against", "-", "access.log"],
        &["explain", "-p", "p.yaml", "--protected", "-"],
    ] {
        let ended = folder.run(twice, policy("").as_bytes());
        let expect = "error: only one of the policy, the protected networks and the log can be standard input: name a file \
                      for the others\n";
        assert_eq!((ended.code, ended.err.as_str()), (Some(1), expect), "{twice:?}");
    }
}
