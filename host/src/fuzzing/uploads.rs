//! Components: `skills/compile.rs`, and what their imports are to us, `runtime/capabilities`.

use std::sync::LazyLock;

use wasmtime::Engine;

use super::{Seen, is_presentable};
use crate::runtime::{Capability, Grants, Import, engine};
use crate::skills::compile::{self, Compiled};

static ENGINE: LazyLock<Engine> =
    LazyLock::new(|| engine::compiling().expect("an engine that compiles"));

/// A component, as text or as bytes, or what the child that compiles has written.
///
/// The child's limits are not there: what takes long or much to compile is its own to find out.
pub fn upload(data: &[u8]) -> Seen {
    if data.starts_with(b"EVECOMP1") {
        return answer(data);
    }
    let component = match data.starts_with(b"(") {
        true => match wat::parse_bytes(data) {
            Ok(component) => component,
            Err(_) => return Seen::Refused,
        },
        false => data.into(),
    };
    match compile::check_and_compile(&ENGINE, &component) {
        Ok(compiled) => {
            is_fit(&compiled);
            let again = compile::check_and_compile(&ENGINE, &component);
            let same = |again: Compiled| again.artifact == compiled.artifact;
            assert!(again.is_ok_and(same), "the same component is compiled differently");
            Seen::Accepted
        }
        Err(reason) => {
            is_presentable(&compile::presentable(&reason), 2 << 10);
            Seen::Refused
        }
    }
}

fn is_fit(compiled: &Compiled) {
    let Compiled { artifact, imports, capabilities, fingerprint } = compiled;
    assert!(!artifact.is_empty());
    assert_eq!(*fingerprint, engine::fingerprint(&ENGINE));
    let names = || imports.iter().map(String::as_str);
    // What it says that it needs is what it needs: no less, and no more.
    let granted: Grants = capabilities.iter().copied().collect();
    assert_eq!(granted.check(names()), Ok(()));
    for left_out in capabilities {
        let fewer: Grants = capabilities.iter().copied().filter(|one| one != left_out).collect();
        assert!(fewer.check(names()).is_err(), "{left_out} is not needed");
    }
}

fn answer(data: &[u8]) -> Seen {
    match compile::understand(data) {
        Ok(compiled) => {
            assert!(compiled.artifact.len() < data.len());
            Seen::Accepted
        }
        Err(_) => Seen::Refused,
    }
}

/// The name of an import.
pub fn import(data: &[u8]) -> Seen {
    let Ok(name) = std::str::from_utf8(data) else { return Seen::Refused };
    let alone = Grants::none().check([name]);
    match Import::of(name) {
        Ok(Import::Always) => {
            let known = ["types", "request", "log"].map(|known| format!("eve:skill/{known}@0.1."));
            assert!(known.iter().any(|known| name.starts_with(known)), "{name}");
            assert_eq!(alone, Ok(()));
        }
        Ok(Import::Wasi) => {
            let (interface, version) = name.split_once('@').expect("a version");
            let (package, _) = interface.split_once('/').expect("an interface");
            let ours = ["cli", "clocks", "filesystem", "io", "random", "sockets"];
            assert!(package.strip_prefix("wasi:").is_some_and(|of| ours.contains(&of)), "{name}");
            assert!(version.starts_with("0.2."), "{name}");
            assert_eq!(alone, Ok(()));
        }
        Ok(Import::Capability(capability)) => {
            assert!(name.starts_with(&format!("eve:skill/{capability}@0.1.")), "{name}");
            is_presentable(&alone.expect_err("not granted").to_string(), 4 << 10);
            let granted: Grants = [capability].into_iter().collect();
            assert_eq!(granted.check([name]), Ok(()));
            let others = Capability::ALL.into_iter().filter(|other| *other != capability);
            assert!(others.collect::<Grants>().check([name]).is_err());
        }
        Err(refused) => {
            is_presentable(&refused.to_string(), 4 << 10);
            assert_eq!(alone, Err(refused));
            assert!(Grants::all().check([name]).is_err());
            return Seen::Refused;
        }
    }
    Seen::Accepted
}
