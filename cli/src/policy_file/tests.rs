use std::{fs, path::Path};

use super::*;

fn write(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("p.yaml");
    fs::write(&path, text).unwrap();
    (folder, path)
}

/// What is said of a file, with `p.yaml` for its path.
fn refusal(text: &str, name: Option<&str>) -> String {
    let (folder, path) = write(text);
    let message = load(&path, name).map_or_else(|error| error.to_string(), |_| "accepted".to_owned());
    message.replace(&format!("{}/", folder.path().display()), "")
}

fn policy(spec: &str) -> String {
    format!("apiVersion: ipsentry.dev/v1alpha1\nkind: ProbePolicy\nmetadata: {{name: x}}\nspec:\n{spec}")
}

/// The API server compiles with Go's regexp and says so in its words; here core's do.
const IN_OTHER_WORDS: [&str; 5] = [
    "exception-that-does-not-compile",
    "format-that-does-not-compile",
    "pattern-of-another-dialect",
    "pattern-that-does-not-compile",
    "user-agent-that-does-not-compile",
];

#[test]
fn what_the_api_server_refuses_is_refused_in_the_same_words() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/e2e/admission/probepolicy");
    let mut wrong = Vec::new();
    let mut cases = 0;
    for case in fs::read_dir(folder).unwrap() {
        let case = case.unwrap().path();
        let name = case.file_stem().unwrap().to_str().unwrap().to_owned();
        let text = fs::read_to_string(&case).unwrap();
        if text.contains("\n---") {
            continue;
        }
        cases += 1;
        let expect = text.lines().find_map(|line| line.strip_prefix("# refused: "));
        let got = load(&case, None).map(drop).map_err(|error| error.to_string());
        let is_right = match (expect, &got) {
            (None, Ok(())) => true,
            (Some(_), Err(_)) if IN_OTHER_WORDS.contains(&name.as_str()) => true,
            (Some(words), Err(message)) => message.contains(words),
            _ => false,
        };
        if !is_right {
            wrong.push(format!("{name}: {expect:?} is expected, but {got:?}"));
        }
    }
    assert!(cases > 30, "only {cases} cases");
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn every_rule_of_the_kinds_can_be_evaluated() {
    for kind in ["ProbePolicy", "ProtectedNetworks"] {
        let schema = schema::of(kind);
        assert!(schema["properties"]["spec"].is_object(), "{kind}");
        rules::tests::all_compile(&schema, kind);
    }
}

#[test]
fn a_mistake_is_shown_where_it_stands() {
    let target = "  podSelector: {}\n";
    #[rustfmt::skip]
    let table = [
        (policy("  podSelector: {}\n  window: soon\n"),
            "p.yaml:6:11: The ProbePolicy \"x\" is invalid: spec.window: Invalid value: \"soon\": window is a duration from 1s to 24h, such as 90s, 2m or 24h"),
        (policy("  podSelector: {}\n  treshold: 3\n"),
            "p.yaml:6:3: ProbePolicy in version \"v1alpha1\" cannot be handled as a ProbePolicy: strict decoding error: unknown field \"spec.treshold\""),
        (policy("  podSelector: {}\n  threshold: many\n  mode: Off\n"),
            "The ProbePolicy \"x\" is invalid:\n\
             * p.yaml:7:9: spec.mode: Unsupported value: \"Off\": supported values: \"Enforce\", \"Shadow\"\n\
             * p.yaml:6:14: spec.threshold: Invalid value: \"string\": spec.threshold in body must be of type integer: \"string\""),
        (policy("  podSelector: {}\n  match:\n    patterns:\n    - ^/a\n    - ^/(b\n"),
            "p.yaml:9:7: The ProbePolicy \"x\" is invalid: spec.match.patterns[1]: Invalid value: \"^/(b\": does not compile: unclosed group, at character 3"),
        (policy("  mode: Shadow\n"),
            "p.yaml:5:3: The ProbePolicy \"x\" is invalid: spec: Invalid value: give exactly one of targetRefs and podSelector"),
        (policy("  podSelector: {}\n  window: [1\n"),
            "p.yaml:7:1: error converting YAML to JSON: did not find expected ',' or ']'"),
        (policy(target).replace("v1alpha1", "v1"),
            "p.yaml:1:13: no matches for kind \"ProbePolicy\" in version \"ipsentry.dev/v1\": write ipsentry.dev/v1alpha1"),
        (policy(target).replace("name: x", "labels: {}"),
            "p.yaml:3:11: The ProbePolicy \"\" is invalid: metadata.name: Required value: name or generateName is required"),
        ("kind: Pod\n".to_owned(), "p.yaml holds no ProbePolicy: it has to be written as it is applied, with apiVersion and kind"),
        (String::new(), "p.yaml holds no ProbePolicy: it has to be written as it is applied, with apiVersion and kind"),
    ];
    for (text, expect) in table {
        assert_eq!(refusal(&text, None), expect, "{text}");
    }
}

#[test]
fn of_several_policies_the_one_that_is_named_is_taken() {
    let one = policy("  podSelector: {}\n");
    let other = policy("  podSelector: {}\n  window: soon\n").replace("name: x", "name: other");
    let both = format!("{one}---\nkind: Pod\n---\n{other}");
    assert_eq!(refusal(&both, Some("x")), "accepted");
    assert_eq!(
        refusal(&both, None),
        "p.yaml holds the ProbePolicy x, other: name one of them with --policy-name"
    );
    assert_eq!(
        refusal(&both, Some("z")),
        "p.yaml holds the ProbePolicy x, other: name one of them with --policy-name"
    );
    assert!(refusal(&both, Some("other")).starts_with("p.yaml:14:11: The ProbePolicy \"other\" is invalid"));
    let list = r#"{"kind":"List","apiVersion":"v1","items":[{"kind":"Pod"},
      {"apiVersion":"ipsentry.dev/v1alpha1","kind":"ProbePolicy","metadata":{"name":"x"},"spec":{"podSelector":{},
       "threshold":-1}}]}"#;
    let expect = "p.yaml:3:20: The ProbePolicy \"x\" is invalid: spec.threshold: Invalid value: -1: \
                  spec.threshold in body should be greater than or equal to 0";
    assert_eq!(refusal(list, None), expect);
    assert_eq!(refusal(&list.replace("-1", "1"), None), "accepted");
}
