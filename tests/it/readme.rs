//! The README's tour, run as it is printed: every command, and the shape of every line of output.

use crate::home::{Home, program};
use std::process::Command;

/// A command of the tour and the lines that are printed under it.
struct Step {
    command: String,
    output: Vec<String>,
}

/// The commands under a heading.
fn tour(heading: &str) -> Vec<Step> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    let (_, text) = text.split_once(&format!("\n## {heading}\n")).unwrap_or_else(|| panic!("README has no part {heading:?}"));
    let text = text.split("\n## ").next().unwrap_or_default();
    let mut steps: Vec<Step> = Vec::new();
    for block in text.split("```console\n").skip(1) {
        for line in block.split("```").next().unwrap_or_default().lines() {
            match line.strip_prefix("$ ") {
                Some(command) => steps.push(Step { command: command.to_owned(), output: Vec::new() }),
                None => steps.last_mut().unwrap().output.push(line.to_owned()),
            }
        }
    }
    steps
}

/// Whether a printed line says the same, but for what differs from run to run: numbers, keys, ids, times, folders.
fn same(printed: &str, real: &str) -> bool {
    let varies = |word: &str| word.len() >= 11 || word.contains('/') || word.chars().any(|c| c.is_ascii_digit());
    let (printed, real): (Vec<_>, Vec<_>) = (printed.split_whitespace().collect(), real.split_whitespace().collect());
    printed.len() == real.len() && printed.iter().zip(&real).all(|(p, r)| p == r || (varies(p) && varies(r)))
}

#[test]
fn the_tour_works_as_printed() {
    works_as_printed("One minute", 12, "home");
}

#[test]
#[ignore = "needs the static binary: ci/test"]
fn the_tour_of_a_machine_works_as_printed() {
    works_as_printed("A machine that is nothing else", 12, "vm");
}

/// Runs what is printed under a heading; `label` is the machine that is destroyed in the end, if the text has not done so.
fn works_as_printed(heading: &str, commands: usize, label: &str) {
    let home = Home::new();
    let steps = tour(heading);
    assert!(steps.len() >= commands, "only {} commands", steps.len());
    // One shell for the whole tour, since one of the commands goes on in the background; a mark after each shows where
    // its output ends.
    const MARK: &str = "=== end of step ===";
    let mut script = String::new();
    for step in &steps {
        script += &format!("{}\n", step.command);
        if step.command.ends_with('&') {
            script += "until curl -s -o /dev/null http://127.0.0.1:8437/; do sleep 0.05; done\n";
        }
        script += &format!("echo '{MARK}'\n");
    }
    let bin = std::path::Path::new(program()).parent().unwrap();
    let run = |script: &str| {
        let mut bash = Command::new("bash");
        bash.args(["-c", &format!("exec 2>&1\n{script}")]).env_clear().current_dir(home.work()).env("HOME", home.work());
        bash.env("PATH", format!("{}:/usr/local/bin:/usr/bin:/bin:/usr/sbin", bin.display())).output().unwrap()
    };
    let output = run(&script);
    let _ = run(&format!("portdistrict machine destroy {label} --yes"));
    let output = String::from_utf8(output.stdout).unwrap();
    let sections: Vec<&str> = output.split(&format!("{MARK}\n")).collect();
    assert_eq!(sections.len(), steps.len() + 1, "{output}");
    // What only tells how the work goes, or what to do next, is left out of the text.
    let aside = |line: &&str| {
        let skipped = [": done in", "Next: portdistrict", "Friends outside", "Your identity"];
        !skipped.iter().any(|part| line.contains(part))
    };
    for (step, section) in steps.iter().zip(sections) {
        if step.output.is_empty() {
            assert!(!section.contains("error:"), "{}\n{section}", step.command);
            continue;
        }
        let real: Vec<&str> = section.lines().filter(aside).collect();
        let printed: Vec<&str> = step.output.iter().map(String::as_str).filter(aside).collect();
        let equal = printed.len() == real.len() && printed.iter().zip(&real).all(|(p, r)| same(p, r));
        assert!(equal, "README, under `$ {}`:\n{}\n--- but it printed\n{}", step.command, printed.join("\n"), real.join("\n"));
    }
}
