//! What the built components import: only what their skills use, and nothing of WASI unless they
//! are built for it. Builds them first, as a skill's author would.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;
use std::sync::OnceLock;

use wasmparser::component_types::ComponentEntityType;
use wasmparser::{Parser, Payload, Validator};

/// The folder that `scripts/skills` has put everything into.
fn skills() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/skills");
        let output = Command::new(script).output().expect("scripts/skills should start");
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "scripts/skills failed:\n{errors}");
        let text = String::from_utf8_lossy(&output.stdout);
        PathBuf::from(text.lines().last().expect("scripts/skills should print its folder"))
    })
}

/// The functions that a component imports, by interface.
fn imports(name: &str) -> BTreeMap<String, BTreeSet<String>> {
    let path = skills().join(name).join(format!("{name}.wasm"));
    let bytes = std::fs::read(&path).expect("the component should be there");
    let types = Validator::new().validate_all(&bytes).expect("the component should be valid");
    let mut imports = BTreeMap::new();
    let mut depth = 0;
    for payload in Parser::new(0).parse_all(&bytes) {
        match payload.expect("the component should be readable") {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth -= 1,
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    let import = import.expect("the import should be readable").name.name;
                    let entity = types.component_item_for_import(import).map(|item| item.ty);
                    let Some(ComponentEntityType::Instance(instance)) = entity else {
                        panic!("{name} imports {import}, which is no interface");
                    };
                    let functions = types[instance]
                        .exports
                        .iter()
                        .filter(|(_, item)| matches!(item.ty, ComponentEntityType::Func(_)))
                        .map(|(function, _)| function.to_string())
                        .collect();
                    imports.insert(import.to_owned(), functions);
                }
            }
            _ => {}
        }
    }
    imports
}

/// The imports that have functions, as `interface: function function`.
fn granted(name: &str) -> Vec<String> {
    imports(name)
        .into_iter()
        .filter(|(_, functions)| !functions.is_empty())
        .map(|(interface, functions)| {
            format!("{interface}: {}", functions.into_iter().collect::<Vec<_>>().join(" "))
        })
        .collect()
}

#[test]
fn a_skill_imports_only_what_it_uses() {
    assert_eq!(granted("noop"), ["eve:skill/log@0.1.0: log"]);
    assert_eq!(
        granted("echo"),
        ["eve:skill/log@0.1.0: log", "eve:skill/request@0.1.0: context prompt trigger"]
    );
    assert_eq!(
        granted("text-stats"),
        [
            "eve:skill/log@0.1.0: log",
            "eve:skill/queue@0.1.0: blockers result",
            "eve:skill/request@0.1.0: context id trigger",
        ]
    );
    assert_eq!(
        granted("deployment-worker"),
        [
            "eve:skill/deploy@0.1.0: create delete environments list rollback scale status",
            "eve:skill/log@0.1.0: log",
            "eve:skill/request@0.1.0: additional-triggers context prompt trigger",
        ]
    );
}

#[test]
fn nothing_of_wasi_is_imported_unless_built_for_it() {
    let plain = [
        "noop",
        "echo",
        "text-stats",
        "release-notes",
        "deployment-worker",
        "hostile",
        "orchestrator",
    ];
    for name in plain {
        let names: Vec<String> = imports(name).into_keys().collect();
        assert!(names.iter().all(|name| name.starts_with("eve:skill/")), "{name}: {names:?}");
    }
    assert!(imports("hostile-wasi").keys().any(|name| name.starts_with("wasi:cli/stdout@0.2")));
}
