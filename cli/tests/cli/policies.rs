use super::run::{Folder, policy};

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
    assert_eq!(ended.err, "error: nowhere.yaml: No such file or directory (os error 2)\n");
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
        &["ban"],
    ] {
        let ended = folder.run(wrong, b"");
        assert_eq!((ended.code, ended.out.as_str()), (Some(2), ""), "{wrong:?}");
        assert!(!ended.err.contains('\x1b'), "no colour unless on a terminal: {}", ended.err);
    }
    let version = folder.run(&["version"], b"");
    assert_eq!(version.out, format!("{}\n", env!("CARGO_PKG_VERSION")));
}
