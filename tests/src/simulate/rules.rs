//! `cargo simulate --rules`: safety rules of the engine are taken out of a copy of the sources, one at a time; the
//! model check must notice each.
//!
//! Lives here: the rules, as edits of the sources. Does not live here: the model check
//! (`replicator/engine/tests/model.rs`).

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

use crate::build::cargo;
use crate::ui::Ui;
use crate::{process, repository};

/// One rule, and what takes it out.
struct Rule {
    name: &'static str,
    says: &'static str,
    edits: &'static [Edit],
}

/// A text that stands once in a file of the engine's sources, and what stands there without the rule.
struct Edit {
    file: &'static str,
    with: &'static str,
    without: &'static str,
}

const fn edit(file: &'static str, with: &'static str, without: &'static str) -> Edit {
    Edit {
        file,
        with,
        without,
    }
}

const RULES: &[Rule] = &[
    Rule {
        name: "E1",
        says: "a returning Primary that wrote beyond the fork is Partitioned, not Superseded",
        edits: &[edit("compare.rs", "    if !covered {", "    if false {")],
    },
    Rule {
        name: "E2",
        says: "a grant stands beside the lineage until it is used",
        edits: &[
            edit(
                "transition/grants.rs",
                "self.sb.grant = Some(Grant { epoch, to });",
                "self.sb.grant = Some(Grant { epoch, to });\n                self.sb.bump(epoch);",
            ),
            edit(
                "transition/grants.rs",
                "        self.sb.grant = None;\n        self.sb.bump(epoch);",
                "        self.sb.grant = None;",
            ),
        ],
    },
    Rule {
        name: "E3",
        says: "a lost adoption is received only under the epoch that was completed",
        edits: &[edit(
            "compare.rs",
            ".is_some_and(|c| same && c.id == theirs.adopted && head == Some(c.epoch))",
            ".is_some_and(|c| c.id == theirs.adopted)",
        )],
    },
    Rule {
        name: "E3, later writes",
        says: "writes after a completion are not cleared with it",
        edits: &[edit(
            "compare.rs",
            "return mine.dirty_after > 0 || logged(mine, theirs) != Logged::Nothing;",
            "return false;",
        )],
    },
    Rule {
        name: "E4",
        says: "what a completion stands for is durable on both sides before bits are cleared",
        edits: &[
            edit(
                "resync.rs",
                "        let job = self.job(Job::SourceFlush(id));\n        out.push(Effect::FlushData { job });",
                "        let _ = out;\n        self.sb.peer_may_have_head = true;\n        self.persist(Then::SendCompletion(id));",
            ),
            edit(
                "resync.rs",
                "            s.stage = Stage::Flushing;",
                "            s.stage = Stage::Recording;",
            ),
            edit(
                "resync.rs",
                "if extent == Extent::Log {\n            Stage::Flushing",
                "if extent == Extent::Log {\n            Stage::Recording",
            ),
            edit(
                "resync/target.rs",
                "let (anchored, durable) = (self.replica.anchored, self.replica.durable);",
                "let (anchored, durable) = (self.replica.anchored, self.replica.applied);",
            ),
        ],
    },
    Rule {
        name: "E5",
        says: "a superseded Primary stays one over a restart",
        edits: &[edit(
            "superblock.rs",
            "s.superseded_by = Epoch(r.wide()?);",
            "r.wide()?;",
        )],
    },
    Rule {
        name: "E6",
        says: "a promotion that was to lose nothing never goes on apart from the peer",
        edits: &[edit(
            "transition.rs",
            "if lossless && self.settings.has_peer {",
            "if lossless && !self.settings.has_peer {",
        )],
    },
];

/// Takes each out; true if the loss of each was noticed, and nothing is found wrong with all in place.
///
/// # Errors
/// When a rule is not where the table says, the copy cannot be made, or the program is interrupted.
pub(super) fn run(ui: &Ui) -> Result<bool> {
    let folder = repository::scratch("rules")?;
    let tree = folder.join("tree");
    let sources = tree.join("replicator/engine/src");
    let afresh = || -> Result<()> {
        if tree.exists() {
            fs::remove_dir_all(&tree).with_context(|| tree.display().to_string())?;
        }
        copy(&repository::root(), &tree)
    };
    afresh()?;
    ensure!(
        !is_noticed(&tree, &folder.join("build"))?,
        "the model check fails with every rule in place: see `cargo simulate --model`"
    );
    ui.print("all in place     nothing found");
    let mut all = true;
    for rule in RULES {
        afresh()?;
        for edit in rule.edits {
            take_out(&sources, rule, edit)?;
        }
        let noticed = is_noticed(&tree, &folder.join("build"))?;
        let verdict = if noticed { "noticed" } else { "NOT NOTICED" };
        ui.print(&format!("{:16} {verdict}: {}", rule.name, rule.says));
        all &= noticed;
    }
    Ok(all)
}

fn take_out(sources: &Path, rule: &Rule, edit: &Edit) -> Result<()> {
    let path = sources.join(edit.file);
    let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    ensure!(
        text.matches(edit.with).count() == 1,
        "rule {} is not where the table says: {} has not exactly one `{}`",
        rule.name,
        edit.file,
        edit.with
    );
    fs::write(&path, text.replace(edit.with, edit.without))
        .with_context(|| path.display().to_string())
}

/// Whether the model check of a tree, having been compiled, finds a promise broken.
fn is_noticed(tree: &Path, build: &Path) -> Result<bool> {
    let test = |also: &[&str]| {
        let mut test = cargo();
        test.current_dir(tree)
            .env("CARGO_TARGET_DIR", build)
            .env("RUSTFLAGS", "-Awarnings")
            .env(super::MODEL_ENV, super::EVERY_SEARCH)
            .env("RUST_BACKTRACE", "0")
            .args(["test", "--quiet", "--package", "drqm-engine"])
            .args(["--test", "model"])
            .args(also);
        test
    };
    process::output(&mut test(&["--no-run"]), super::CAMPAIGN)
        .context("the model check does not compile")?;
    let ended = process::run(&mut test(&[]), super::CAMPAIGN)?;
    let signs = ["a promise is broken", "panicked at replicator/engine/src"];
    let found = signs.iter().any(|sign| ended.stdout.contains(sign));
    ensure!(
        found != ended.is_success(),
        "the model check failed without a finding:\n{}",
        ended.stderr
    );
    Ok(found)
}

/// The sources, without what was built from them.
fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| to.display().to_string())?;
    for entry in fs::read_dir(from).with_context(|| from.display().to_string())? {
        let entry = entry?;
        let name = entry.file_name();
        if name == "target" || name == ".git" {
            continue;
        }
        let target: PathBuf = to.join(&name);
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), &target).with_context(|| target.display().to_string())?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_rule_is_where_the_table_says() {
        let sources = repository::root().join("replicator/engine/src");
        for rule in RULES {
            for edit in rule.edits {
                let text = fs::read_to_string(sources.join(edit.file)).expect("a source file");
                let count = text.matches(edit.with).count();
                assert_eq!(count, 1, "{}: {} in {}", rule.name, edit.with, edit.file);
            }
        }
    }
}
