//! Completion of commands: scripts for shells, and the answers that kubectl asks its plugins for.
//!
//! kubectl completes `kubectl ip-sentry …` by running `kubectl_complete-ip_sentry` with the words so far, the last of
//! which is being typed, and reads candidates with a tab and a description, and at last a colon and what else the
//! shell may do (kubectl, `pkg/cmd/plugin`; the numbers are Cobra's `ShellCompDirective`).

use std::io::{self, Write};

use clap::{Arg, Command, CommandFactory as _, ValueHint};

use crate::args::{Args, CompletionFor};

/// The name that shells find the program by.
const PROGRAM: &str = "kubectl-ip_sentry";

/// The command, hidden from help, by which kubectl asks.
pub const ASK: &str = "__complete";

const KUBECTL_SCRIPT: &str = "\
#!/bin/sh
# kubectl runs this to complete `kubectl ip-sentry`: put it on the PATH as kubectl_complete-ip_sentry.
exec kubectl-ip_sentry __complete \"$@\"
";

/// What a shell may do beside offering the candidates.
const OFFER_FILES: &str = ":0\n";
const OFFER_NOTHING_ELSE: &str = ":4\n";

/// Prints the script for a shell or for kubectl.
pub fn script(completion_for: CompletionFor, out: &mut impl Write) -> io::Result<()> {
    match completion_for.shell() {
        None => out.write_all(KUBECTL_SCRIPT.as_bytes()),
        Some(shell) => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Args::command(), PROGRAM, &mut script);
            out.write_all(&script)
        }
    }
}

/// Answers kubectl: `words` are those behind `ip-sentry`, the last is being typed.
pub fn answer(words: &[String], out: &mut impl Write) -> io::Result<()> {
    let mut root = Args::command();
    // With the commands that clap adds, as help.
    root.build();
    let (typed, before) =
        words.split_last().map_or(("", &[][..]), |(typed, before)| (typed.as_str(), before));
    let command = before.iter().find_map(|word| root.find_subcommand(word));
    let (candidates, ends) = match (command, before.last()) {
        (None, _) => (subcommands(&root), OFFER_NOTHING_ELSE),
        (Some(command), Some(last)) => match option(command, last) {
            Some(option) => values(option),
            None if typed.starts_with('-') => (options(command), OFFER_NOTHING_ELSE),
            None => {
                command.get_positionals().next().map_or((subcommands(command), OFFER_NOTHING_ELSE), values)
            }
        },
        (Some(_), None) => (Vec::new(), OFFER_NOTHING_ELSE),
    };
    for (name, help) in candidates.iter().filter(|(name, _)| name.starts_with(typed)) {
        writeln!(out, "{name}\t{help}")?;
    }
    out.write_all(ends.as_bytes())
}

type Candidates = Vec<(String, String)>;

fn subcommands(root: &Command) -> Candidates {
    let shown = root.get_subcommands().filter(|command| !command.is_hide_set());
    shown.map(|command| (command.get_name().to_owned(), text(command.get_about()))).collect()
}

fn options(command: &Command) -> Candidates {
    let long = |arg: &Arg| Some((format!("--{}", arg.get_long()?), text(arg.get_help())));
    command.get_arguments().filter_map(long).collect()
}

/// The option that the word before asks a value for.
fn option<'a>(command: &'a Command, word: &str) -> Option<&'a Arg> {
    let is_it = |arg: &&Arg| {
        let is_long = arg.get_long().is_some_and(|long| word.strip_prefix("--") == Some(long));
        let is_short =
            arg.get_short().is_some_and(|short| word.strip_prefix('-') == Some(&short.to_string()));
        arg.get_action().takes_values() && (is_long || is_short)
    };
    command.get_arguments().find(is_it)
}

/// What an argument may be, and whether files are.
fn values(arg: &Arg) -> (Candidates, &'static str) {
    let possible = arg.get_possible_values();
    let candidates: Candidates =
        possible.iter().map(|value| (value.get_name().to_owned(), text(value.get_help()))).collect();
    let ends = if arg.get_value_hint() == ValueHint::FilePath { OFFER_FILES } else { OFFER_NOTHING_ELSE };
    (candidates, ends)
}

fn text(help: Option<&clap::builder::StyledStr>) -> String {
    help.map(ToString::to_string).unwrap_or_default().replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answers(words: &[&str]) -> Vec<String> {
        let words: Vec<String> = words.iter().map(ToString::to_string).collect();
        let mut out = Vec::new();
        answer(&words, &mut out).unwrap();
        let name = |line: &str| line.split('\t').next().unwrap().to_owned();
        String::from_utf8(out).unwrap().lines().map(name).collect()
    }

    #[test]
    fn kubectl_is_told_what_may_come_next() {
        #[rustfmt::skip]
        let table: [(&[&str], &[&str]); 10] = [
            (&[""],                             &["replay", "explain", "completion", "version", "help", ":4"]),
            (&["re"],                           &["replay", ":4"]),
            (&["help", "re"],                   &["replay", ":4"]),
            (&["replay", "--pol"],              &["--policy", "--policy-name", ":4"]),
            (&["replay", "-o", ""],             &["table", "wide", "json", "yaml", ":4"]),
            (&["replay", "--output", "j"],      &["json", ":4"]),
            (&["replay", "-p", ""],             &[":0"]),
            (&["replay", "-p", "p.yaml", ""],   &[":0"]),
            (&["completion", "z"],              &["zsh", ":4"]),
            (&[],                               &["replay", "explain", "completion", "version", "help", ":4"]),
        ];
        for (words, expect) in table {
            assert_eq!(answers(words), expect, "{words:?}");
        }
    }

    #[test]
    fn every_shell_has_a_script() {
        for (shell, expect) in [
            (CompletionFor::Bash, "complete -F"),
            (CompletionFor::Zsh, "#compdef kubectl-ip_sentry"),
            (CompletionFor::Fish, "complete -c kubectl-ip_sentry"),
            (CompletionFor::Powershell, "Register-ArgumentCompleter"),
            (CompletionFor::Kubectl, "exec kubectl-ip_sentry __complete"),
        ] {
            let mut out = Vec::new();
            script(shell, &mut out).unwrap();
            assert!(String::from_utf8(out).unwrap().contains(expect), "{shell:?}");
        }
    }
}
