//! Rules of the repository that no compiler knows: sizes, headers, directions of dependency, waits.
//!
//! Each rule collects everything that breaks it, so that one run tells all.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use drqm_tests::repository;

/// No file has more lines before its tests.
const LINES: usize = 800;

/// Above this a file is named, so that somebody asks whether it is one thing.
const MANY_LINES: usize = 600;

/// What each crate may depend on inside the workspace.
const DIRECTIONS: [(&str, &[&str]); 11] = [
    ("operator/api", &[]),
    ("operator/core", &["drqm-api"]),
    ("operator", &["drqm-api", "drqm-core", "drqm-rpc"]),
    ("operator/plugin", &["drqm-api"]),
    ("replicator/rpc", &[]),
    ("replicator/engine", &[]),
    ("replicator", &["drqm-engine", "drqm-rpc"]),
    ("tests", &["drqm-api", "drqm-lab"]),
    ("tests/lab", &[]),
    ("tests/load", &[]),
    ("tests/gen", &["drqm-api"]),
];

/// What crates must not see at all: the two brains have no runtime, no network and no cluster, and the
/// privileged process has no Kubernetes client.
const ABSENCES: [(&str, &[&str]); 3] = [
    (
        "operator/core",
        &["tokio", "tonic", "hyper-util", "axum", "async-nats"],
    ),
    (
        "replicator/engine",
        &["tokio", "tonic", "kube", "prost", "hyper-util", "axum"],
    ),
    ("replicator", &["kube", "k8s-openapi"]),
];

struct Source {
    path: PathBuf,
    text: String,
}

impl Source {
    fn name(&self) -> String {
        let path = self
            .path
            .strip_prefix(repository::root())
            .expect("found below the root");
        path.display().to_string()
    }
}

/// Every Rust file that people write.
fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    for top in ["operator", "replicator", "tests"] {
        collect(&repository::root().join(top), &mut found);
    }
    assert!(
        found.len() > 50,
        "only {} files: the search is broken",
        found.len()
    );
    found
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    for entry in fs::read_dir(folder).expect("a folder of the checkout") {
        let path = entry.expect("an entry").path();
        if path.is_dir() && !path.ends_with("generated") {
            collect(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs::read_to_string(&path).expect("text");
            found.push(Source { path, text });
        }
    }
}

fn report(rule: &str, breaches: &[String]) {
    assert!(breaches.is_empty(), "{rule}:\n  {}", breaches.join("\n  "));
}

fn lines_before_tests(text: &str) -> usize {
    text.split("#[cfg(test)]\nmod tests {")
        .next()
        .unwrap_or(text)
        .lines()
        .count()
}

#[test]
fn files_are_short() {
    let mut breaches = Vec::new();
    for source in sources() {
        let lines = lines_before_tests(&source.text);
        if lines > MANY_LINES {
            eprintln!(
                "{}: {lines} lines before tests; is it one thing?",
                source.name()
            );
        }
        if lines > LINES {
            breaches.push(format!("{}: {lines}", source.name()));
        }
    }
    report(
        &format!("files have at most {LINES} lines before their tests"),
        &breaches,
    );
}

#[test]
fn every_file_says_what_lives_in_it() {
    // A file called tests.rs says by its name what it holds: the tests of the module it belongs to.
    let silent = sources()
        .into_iter()
        .filter(|source| !source.text.starts_with("//!") && !source.path.ends_with("tests.rs"));
    let breaches: Vec<String> = silent.map(|source| source.name()).collect();
    report("files begin with //! and what lives there", &breaches);
}

#[test]
fn modules_are_named_after_their_file() {
    let old = sources()
        .into_iter()
        .filter(|source| source.path.ends_with("mod.rs"));
    report(
        "foo.rs and foo/bar.rs, not foo/mod.rs",
        &old.map(|source| source.name()).collect::<Vec<_>>(),
    );
}

/// Sleeping is for functions that wait for a condition, and these say so in their name.
#[test]
fn only_waits_sleep() {
    let mut breaches = Vec::new();
    for source in sources() {
        for (number, function) in sleeps(&source.text) {
            let waits = ["wait", "retry", "pause", "backoff"]
                .iter()
                .any(|word| function.contains(word));
            if !waits {
                breaches.push(format!("{}:{number} in fn {function}", source.name()));
            }
        }
    }
    report("sleeps outside functions that wait", &breaches);
}

/// Lines that sleep, each with the name of the function around it.
fn sleeps(text: &str) -> Vec<(usize, &str)> {
    let needles = ["thread::sleep(", "time::sleep("];
    let mut function = "";
    let mut found = Vec::new();
    for (number, line) in text.lines().enumerate() {
        if let Some((_, rest)) = line.split_once("fn ") {
            let end = rest
                .find(|c: char| !c.is_alphanumeric() && c != '_')
                .unwrap_or(rest.len());
            if end > 0 && !line.trim_start().starts_with("//") {
                function = &rest[..end];
            }
        }
        let is_code = !line.trim_start().starts_with("//") && !line.contains('"');
        if is_code && needles.iter().any(|needle| line.contains(needle)) {
            found.push((number + 1, function));
        }
    }
    found
}

#[test]
fn a_sleep_is_found_with_its_function() {
    let text = "fn wait(x: u8) {\n    std::thread::sleep(A);\n}\n// fn other()\nasync fn go() {\n    tokio::time::sleep(B).await;\n}";
    assert_eq!(sleeps(text), [(2, "wait"), (6, "go")]);
}

#[test]
fn reminders_name_an_issue() {
    let words = [concat!("TO", "DO"), concat!("FIX", "ME")];
    let mut breaches = Vec::new();
    for source in sources() {
        for (number, line) in source.text.lines().enumerate() {
            let found = words.iter().find_map(|word| line.split_once(word));
            if found.is_some_and(|(_, rest)| !rest.starts_with("(#")) {
                breaches.push(format!("{}:{}", source.name(), number + 1));
            }
        }
    }
    report("reminders without an issue", &breaches);
}

#[test]
fn tests_are_never_switched_off() {
    let mark = concat!("#[", "ignore");
    let mut breaches = Vec::new();
    for source in sources() {
        let lines = source
            .text
            .lines()
            .enumerate()
            .filter(|(_, line)| line.trim().starts_with(mark));
        breaches.extend(lines.map(|(number, _)| format!("{}:{}", source.name(), number + 1)));
    }
    report("ignored tests", &breaches);
}

#[test]
fn dependencies_point_one_way() {
    let mut breaches = Vec::new();
    let allowed: BTreeMap<&str, &[&str]> = DIRECTIONS.into_iter().collect();
    for (folder, allowed) in &allowed {
        for name in dependencies(folder) {
            if name.starts_with("drqm-") && !allowed.contains(&name.as_str()) {
                breaches.push(format!("{folder} depends on {name}"));
            }
        }
    }
    for (folder, absent) in ABSENCES {
        for name in dependencies(folder) {
            if absent.contains(&name.as_str()) {
                breaches.push(format!("{folder} depends on {name}"));
            }
        }
    }
    report("directions of dependency", &breaches);
}

/// Names in `[dependencies]` of a crate.
fn dependencies(folder: &str) -> Vec<String> {
    let path = repository::root().join(folder).join("Cargo.toml");
    let text =
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut names = Vec::new();
    let mut inside = false;
    for line in text.lines().map(str::trim) {
        if line.starts_with('[') {
            inside = line == "[dependencies]";
        } else if inside && !line.is_empty() && !line.starts_with('#') {
            let end = line.find(['.', ' ', '=']).unwrap_or(line.len());
            names.push(line[..end].to_owned());
        }
    }
    names
}

#[test]
fn the_top_level_is_closed() {
    let known = [
        "Cargo.toml",
        "Cargo.lock",
        "LICENSE",
        "CHANGELOG.md",
        "README.md",
        "operator",
        "replicator",
        "crds",
        "charts",
        "deploy",
        "tests",
        "target",
    ];
    let entries = fs::read_dir(repository::root()).expect("the checkout");
    let names = entries.map(|entry| {
        entry
            .expect("an entry")
            .file_name()
            .to_string_lossy()
            .into_owned()
    });
    let strange: Vec<String> = names
        .filter(|name| !name.starts_with('.') && !known.contains(&&**name))
        .collect();
    report("unknown things at the top level", &strange);
}
