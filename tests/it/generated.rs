//! Committed files that one definition generates: they must be what it generates today.

use super::home::Home;
use std::collections::BTreeMap;
use std::path::Path;

fn folder(path: &Path) -> BTreeMap<String, String> {
    let read = |entry: std::io::Result<std::fs::DirEntry>| {
        let entry = entry.unwrap();
        (entry.file_name().into_string().unwrap(), std::fs::read_to_string(entry.path()).unwrap())
    };
    std::fs::read_dir(path).map(|entries| entries.map(read).collect()).unwrap_or_default()
}

fn committed(name: &str) -> BTreeMap<String, String> {
    folder(&Path::new(env!("CARGO_MANIFEST_DIR")).join(name))
}

#[test]
fn the_man_pages_are_fresh() {
    let home = Home::new();
    let _ = home.line("man --out pages").ok();
    let fresh = folder(&home.work().join("pages"));
    let old = committed("man");
    let stale: Vec<_> = fresh.keys().chain(old.keys()).filter(|name| fresh.get(*name) != old.get(*name)).collect();
    assert!(stale.is_empty(), "stale: {stale:?}; run: rm -r man; cargo run -- man --out man");
}

#[test]
fn the_completions_are_fresh() {
    let home = Home::new();
    let old = committed("completions");
    assert_eq!(old.len(), 5, "{:?}", old.keys());
    for (file, shell) in [
        ("portdistrict.bash", "bash"),
        ("_portdistrict", "zsh"),
        ("portdistrict.fish", "fish"),
        ("portdistrict.elv", "elvish"),
        ("_portdistrict.ps1", "powershell"),
    ] {
        let fresh = home.run(["completions", shell]).ok();
        assert!(old.get(file) == Some(&fresh), "stale: run: cargo run -- completions {shell} > completions/{file}");
    }
}

#[test]
fn the_man_pages_are_well_formed() {
    let Ok(found) = std::process::Command::new("man").arg("--version").output() else {
        assert!(std::env::var_os("CI").is_none(), "man is missing; install man-db");
        return;
    };
    assert!(found.status.success());
    for name in committed("man").keys() {
        let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("man").join(name);
        let output =
            std::process::Command::new("man").args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"]).arg(&page).output().unwrap();
        assert!(output.stderr.is_empty(), "{name}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
