//! Has the migrations built in anew when one is added: `sqlx::migrate!` cannot tell cargo by itself.
//!
//! Lists the files that `eve skill new` writes into a new skill's folder: the SDKs' sources and the
//! contract, so that a skill builds where there is no checkout of this repository.
//!
//! Writes `embedded.rs` to OUT_DIR: for each list a `static` of paths, relative to the repository, with
//! the files' texts.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// Names of the lists, and the files and folders that they hold.
const LISTS: &[(&str, &[&str])] = &[
    ("RUST_SDK", &["sdk/Cargo.toml", "sdk/src", "sdk/macros/Cargo.toml", "sdk/macros/src", "wit"]),
    (
        "JS_SDK",
        &[
            "sdk/js/package.json",
            "sdk/js/README.md",
            "sdk/js/build.mjs",
            "sdk/js/register.mjs",
            "sdk/js/src",
            "wit",
        ],
    ),
    (
        "PYTHON_SDK",
        &[
            "sdk/python/pyproject.toml",
            "sdk/python/README.md",
            "sdk/python/build.py",
            "sdk/python/src",
            "wit",
        ],
    ),
];

fn main() -> std::io::Result<()> {
    println!("cargo::rerun-if-changed=../migrations");
    let manifest = std::env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = manifest.as_deref().and_then(Path::parent).expect("the host lies in the repository");
    let mut text = String::new();
    for (name, roots) in LISTS {
        let mut files = Vec::new();
        for path in *roots {
            // A folder stands for all that is in it, files that are added later too.
            println!("cargo::rerun-if-changed={}", root.join(path).display());
            collect(&root.join(path), &mut files)?;
        }
        files.sort();
        writeln!(text, "pub static {name}: &[(&str, &str)] = &[").expect("a string takes all");
        for file in files {
            let relative = file.strip_prefix(root).expect("found below it").display().to_string();
            writeln!(text, "    ({relative:?}, include_str!({:?})),", file.display().to_string())
                .expect("a string takes all");
        }
        writeln!(text, "];").expect("a string takes all");
    }
    let out = std::env::var_os("OUT_DIR").map(PathBuf::from).expect("cargo sets it");
    std::fs::write(out.join("embedded.rs"), text)
}

fn collect(path: &Path, files: &mut Vec<PathBuf>) -> std::io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in std::fs::read_dir(path)? {
        let entry = entry?;
        // What editors and tools leave behind.
        let name = entry.file_name();
        if !name.to_string_lossy().starts_with('.') && name != "__pycache__" {
            collect(&entry.path(), files)?;
        }
    }
    Ok(())
}
