//! `__complete`: candidates for kubectl's own completion, one per line, then `:4` (no file names).
//!
//! kubectl calls it through `kubectl_complete-drqm` with the words after `kubectl drqm`, the last
//! one incomplete. Whatever goes wrong, the answer is a shorter list: a shell prompt is no place
//! for errors.

use std::{ffi::OsString, path::PathBuf, time::Duration};

use clap::{CommandFactory, ValueEnum};
use clap_complete::Shell;
use kube::ResourceExt;

use crate::{
    args::{Args, KubeArgs, OutputFormat},
    cluster::{self, Cluster, Scope},
    failure::Failure,
    output,
};

/// Nobody waits longer for a completion.
const PATIENCE: Duration = Duration::from_secs(3);

/// What stands at the cursor.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Wanted {
    Commands,
    Flags(String),
    Formats,
    Shells,
    Contexts,
    Namespaces,
    QueueManagers,
    Nothing,
}

/// Prints the candidates.
pub(super) async fn run(words: Vec<OsString>) -> Result<(), Failure> {
    let words: Vec<String> = words
        .iter()
        .map(|word| word.to_string_lossy().into_owned())
        .collect();
    let (typed, prefix) = match words.split_last() {
        Some((last, typed)) => (typed, last.as_str()),
        None => (&[][..], ""),
    };
    let kube = kube_args(typed);
    let mut text: String = candidates(&wanted(typed, prefix), &kube)
        .await
        .into_iter()
        .filter(|candidate| candidate.starts_with(prefix))
        .map(|candidate| candidate + "\n")
        .collect();
    text.push_str(":4\n");
    Ok(output::data(&text)?)
}

fn wanted(typed: &[String], prefix: &str) -> Wanted {
    let mut positional = Vec::new();
    let mut words = typed.iter();
    while let Some(word) = words.next() {
        if takes_value(word) {
            if words.next().is_none() {
                return value_of(word);
            }
        } else if !word.starts_with('-') {
            positional.push(word.as_str());
        }
    }
    match positional.as_slice() {
        _ if prefix.starts_with('-') => {
            Wanted::Flags((*positional.first().unwrap_or(&"")).to_owned())
        }
        [] => Wanted::Commands,
        ["status" | "peer-manifest" | "promote" | "demote"] => Wanted::QueueManagers,
        ["completion"] => Wanted::Shells,
        _ => Wanted::Nothing,
    }
}

/// Flags whose value is the next word.
fn takes_value(word: &str) -> bool {
    let flag = word.trim_start_matches('-');
    word.starts_with('-')
        && !word.contains('=')
        && Args::command()
            .get_subcommands()
            .chain([&Args::command()])
            .flat_map(clap::Command::get_arguments)
            .filter(|argument| {
                argument.get_long() == Some(flag)
                    || argument
                        .get_short()
                        .is_some_and(|short| flag == short.to_string())
            })
            .any(|argument| {
                argument.get_action().takes_values() && !argument.is_require_equals_set()
            })
}

fn value_of(flag: &str) -> Wanted {
    match flag {
        "-o" | "--output" => Wanted::Formats,
        "--context" | "--peer-context" => Wanted::Contexts,
        "-n" | "--namespace" | "--operator-namespace" => Wanted::Namespaces,
        _ => Wanted::Nothing,
    }
}

async fn candidates(wanted: &Wanted, kube: &KubeArgs) -> Vec<String> {
    let command = Args::command();
    match wanted {
        Wanted::Nothing => Vec::new(),
        Wanted::Commands => command
            .get_subcommands()
            .filter(|sub| !sub.is_hide_set())
            .map(|sub| sub.get_name().to_owned())
            .collect(),
        Wanted::Flags(sub) => command
            .find_subcommand(sub)
            .into_iter()
            .chain([&command])
            .flat_map(clap::Command::get_arguments)
            .filter_map(|argument| argument.get_long().map(|long| format!("--{long}")))
            .collect(),
        Wanted::Formats => value_names::<OutputFormat>(),
        Wanted::Shells => value_names::<Shell>(),
        Wanted::Contexts => cluster::contexts(kube.kubeconfig.as_deref()).unwrap_or_default(),
        Wanted::Namespaces => match Cluster::connect(kube).await {
            Ok(cluster) => cluster.namespaces().await.unwrap_or_default(),
            Err(_) => Vec::new(),
        },
        Wanted::QueueManagers => match Cluster::connect(kube).await {
            Ok(cluster) => cluster
                .queue_managers(Scope::Namespace)
                .await
                .map(|objects| objects.iter().map(ResourceExt::name_any).collect())
                .unwrap_or_default(),
            Err(_) => Vec::new(),
        },
    }
}

fn value_names<T: ValueEnum>() -> Vec<String> {
    T::value_variants()
        .iter()
        .filter_map(ValueEnum::to_possible_value)
        .map(|value| value.get_name().to_owned())
        .collect()
}

/// The cluster flags among words that need not be a whole command yet.
fn kube_args(typed: &[String]) -> KubeArgs {
    let value = |names: &[&str]| {
        let spaced = typed
            .windows(2)
            .find(|pair| names.contains(&pair[0].as_str()))
            .map(|pair| pair[1].clone());
        let joined = typed.iter().find_map(|word| {
            let (flag, value) = word.split_once('=')?;
            names.contains(&flag).then(|| value.to_owned())
        });
        spaced.or(joined)
    };
    KubeArgs {
        namespace: value(&["-n", "--namespace"]),
        context: value(&["--context"]),
        kubeconfig: value(&["--kubeconfig"]).map(PathBuf::from),
        request_timeout: PATIENCE,
        operator_namespace: String::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(words: &[&str], prefix: &str) -> Wanted {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        wanted(&words, prefix)
    }

    #[test]
    fn the_cursor_decides_what_is_offered() {
        assert_eq!(at(&[], ""), Wanted::Commands);
        assert_eq!(at(&["-n", "mq"], ""), Wanted::Commands);
        assert_eq!(at(&["status"], "q"), Wanted::QueueManagers);
        assert_eq!(at(&["status", "-n", "mq"], ""), Wanted::QueueManagers);
        assert_eq!(at(&["promote", "--wait"], ""), Wanted::QueueManagers);
        assert_eq!(at(&["status", "-A"], ""), Wanted::QueueManagers);
        assert_eq!(at(&["status", "qmdr"], ""), Wanted::Nothing);
        assert_eq!(at(&["status", "-n"], ""), Wanted::Namespaces);
        assert_eq!(
            at(&["status", "qmdr", "--peer-context"], ""),
            Wanted::Contexts
        );
        assert_eq!(at(&["status", "-o"], ""), Wanted::Formats);
        assert_eq!(at(&["status"], "--p"), Wanted::Flags("status".to_owned()));
        assert_eq!(at(&["completion"], ""), Wanted::Shells);
    }

    #[test]
    fn cluster_flags_are_read_out_of_unfinished_words() {
        let words = ["status", "-n", "mq", "--context=dr2"].map(str::to_owned);
        let kube = kube_args(&words);
        assert_eq!(kube.namespace.as_deref(), Some("mq"));
        assert_eq!(kube.context.as_deref(), Some("dr2"));
    }
}
