//! The process itself: what it is given, and what its death says of an upload, or of us.

use std::os::fd::AsRawFd as _;
use std::path::PathBuf;
use std::time::Duration;

use super::*;

/// A program that does what a shell is told, in the compiler's place.
fn program(folder: &Path, script: &str) -> PathBuf {
    let (text, program) = (folder.join("text"), folder.join("eve"));
    std::fs::write(&text, format!("#!/bin/bash\n{script}\n")).expect("a script");
    // By somebody else: what this process has had open cannot be run while another test forks.
    let mut install = std::process::Command::new("install");
    let installed = install.args(["-m", "755"]).args([&text, &program]).status();
    assert!(installed.is_ok_and(|status| status.success()));
    program
}

async fn outcome(script: &str) -> CompileError {
    let folder = tempfile::tempdir().expect("a folder");
    let program = program(folder.path(), script);
    compile(&guests::noop(), &program).await.expect_err("it compiles nothing")
}

/// What an upload has done to the compiler is told to its author, and what others did is not.
#[tokio::test]
async fn a_death_is_blamed_on_whom_it_may_concern() {
    let memory = "echo 'memory allocation of 8 bytes failed' >&2; kill -ABRT $$";
    for (script, reason) in [
        ("kill -XCPU $$", "takes more than 60 s of CPU time"),
        (memory, "takes more than 1 GiB of memory"),
        ("kill -ABRT $$", "makes the compiler fail"),
        ("kill -SEGV $$", "makes the compiler fail"),
        ("kill -BUS $$", "makes the compiler fail"),
        ("kill -ILL $$", "makes the compiler fail"),
        ("exit 101", "makes the compiler fail"),
        // In the middle of everything.
        ("head -c 50 >/dev/null; printf EVECOMP1; kill -SEGV $$", "makes the compiler fail"),
        // With more to say than anybody reads.
        ("head -c 1000000 /dev/zero >&2; exit 101", "makes the compiler fail"),
        ("cat /dev/zero", "compiles to more than 256 MiB"),
    ] {
        match outcome(script).await {
            CompileError::Rejected(said) => assert!(said.contains(reason), "{script}: {said}"),
            other => panic!("{script}: {other:?}"),
        }
    }
    // The kernel for want of memory, an operator, Ctrl-C, its own trouble, nothing to say, lies.
    for script in [
        "kill -KILL $$",
        "kill -TERM $$",
        "kill -INT $$",
        "exit 1",
        "exit 2",
        "true",
        "printf EVECOMP1",
        r"printf 'EVECOMP1\xff\xff\xff\xff{}'",
        r"printf 'EVECOMP1\x02\0\0\0{}'",
        r"printf 'EVECOMP1\xff\xff\xff\0'; head -c 16777215 /dev/zero",
    ] {
        let failed = outcome(script).await;
        assert!(matches!(failed, CompileError::Child(..)), "{script}: {failed:?}");
    }
}

/// A compiler that an upload has taken over says what it likes; nobody is shown that as it is.
#[tokio::test]
async fn what_a_child_says_is_made_printable() {
    let answer = r#"{"Rejected":"a\u001b[31m\u202e\n\u0435"}"#;
    let script = format!(r"printf 'EVECOMP1\x{:02x}\0\0\0'; printf '%s' '{answer}'", answer.len());
    match outcome(&script).await {
        CompileError::Rejected(said) => assert_eq!(said, r"a\u{1b}[31m\u{202e}\n\u{435}"),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_child_that_does_not_end_is_ended() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let program = program(folder.path(), &format!("echo $$ > {}; exec sleep 3600", pid.display()));
    let allowance = Allowance { wall: Duration::from_secs(1), ..Allowance::default() };
    match compile_within(&guests::noop(), &program, allowance).await {
        Err(CompileError::Rejected(said)) => assert!(said.contains("more than 1 s to"), "{said}"),
        other => panic!("{other:?}"),
    }
    let pid: u32 = std::fs::read_to_string(pid).unwrap().trim().parse().unwrap();
    let gone = || {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        status.is_empty() || status.contains("State:\tZ")
    };
    while !gone() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_program_that_is_not_ours_is_our_problem() {
    for exe in ["/nonexistent/eve", "/bin/echo"] {
        let failed = compile(&guests::noop(), Path::new(exe)).await;
        assert!(matches!(failed, Err(CompileError::Child(..))), "{failed:?}");
    }
}

/// The child gets its three pipes and nothing that this process happens to have open.
#[tokio::test]
async fn the_compiler_inherits_no_descriptor_and_no_environment() {
    let folder = tempfile::tempdir().unwrap();
    let seen = folder.path().join("seen");
    let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let file = std::fs::File::open("/etc/hostname").unwrap();
    let ours = [socket.as_raw_fd(), file.as_raw_fd()]
        .map(|fd| std::fs::read_link(format!("/proc/self/fd/{fd}")).unwrap().display().to_string());
    let text = format!("(readlink /proc/$$/fd/*; env) > {}", seen.display());
    let script = program(folder.path(), &text);
    assert!(compile(&guests::noop(), &script).await.is_err(), "it does not answer");
    let seen = std::fs::read_to_string(&seen).unwrap();
    assert!(seen.contains("pipe:["), "{seen}");
    for open in &ours {
        assert!(!seen.lines().any(|line| line == open), "{open}: {seen}");
    }
    // What bash sets by itself.
    for line in seen.lines().filter(|line| line.contains('=')) {
        let name = line.split('=').next().unwrap_or_default();
        assert!(["PWD", "OLDPWD", "SHLVL", "_"].contains(&name), "{line}");
    }
}
