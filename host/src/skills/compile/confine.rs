//! What the compiler's process may still do once it has begun: nothing but compute, and use the pipes that
//! it was given.
//!
//! Flow: [`confine`] takes away memory, time, files and, where the kernel has seccomp, every system call
//! that compiling does not need. A compiler that an upload has taken over can still give a wrong answer,
//! and no more than that: it opens no file, reaches no network, starts no process.

use std::collections::BTreeMap;
use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch,
};

/// Address space of the child: the largest real component takes 346 MB of it.
const ADDRESS_SPACE: u64 = 1 << 30;
/// CPU time of the child: the slowest real component takes 11 s.
pub(super) const CPU_SECONDS: u64 = 60;
/// Serving goes before compiling; still a quarter of a core where guests want all of it.
const NICENESS: i32 = 5;
/// Open files of the child: its pipes, and what the standard library opens for a moment.
const OPEN_FILES: u64 = 16;

/// What compiling needs: memory, threads, time, random numbers for hash tables, and the pipes.
const SYSCALLS: &[i64] = &[
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_close,
    libc::SYS_fstat,
    libc::SYS_lseek,
    libc::SYS_mmap,
    libc::SYS_mprotect,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_membarrier,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_prlimit64,
    // Refused by a filter of its own, so that the C library falls back to `clone`.
    libc::SYS_clone3,
];

/// Gives up what is not needed. What seccomp cannot take away here is said.
pub(super) fn confine(cpu_seconds: u64) -> io::Result<()> {
    let limits = [
        (Resource::As, ADDRESS_SPACE, ADDRESS_SPACE),
        // A second apart: at the first comes SIGXCPU, which says what it is, and SIGKILL at the second.
        (Resource::Cpu, cpu_seconds, cpu_seconds + 1),
        (Resource::Core, 0, 0),
        (Resource::Fsize, 0, 0),
        (Resource::Nofile, OPEN_FILES, OPEN_FILES),
    ];
    for (resource, current, maximum) in limits {
        // Whoever has started us may have taken away more, and does not let us have it back.
        let most = getrlimit(resource).maximum.unwrap_or(u64::MAX);
        let (current, maximum) = (current.min(most), maximum.min(most));
        setrlimit(resource, Rlimit { current: Some(current), maximum: Some(maximum) })?;
    }
    if rustix::process::getpriority_process(None)? < NICENESS {
        rustix::process::setpriority_process(None, NICENESS)?;
    }
    if let Err(error) = filter_syscalls() {
        // Read by the control plane, which warns of it.
        eprintln!("{UNFILTERED}: {error}");
    }
    Ok(())
}

/// What a child says on standard error that could not be filtered.
pub(super) const UNFILTERED: &str = "system calls are not filtered here";

/// From now on this thread, and those that it starts, have [`SYSCALLS`] only.
fn filter_syscalls() -> Result<(), seccompiler::Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(seccompiler::Error::Backend)?;
    let errno = |code: i32| SeccompAction::Errno(code as u32);
    let program = |rules, otherwise, then| -> Result<BpfProgram, seccompiler::Error> {
        let filter = SeccompFilter::new(rules, otherwise, then, arch);
        filter.and_then(TryInto::try_into).map_err(seccompiler::Error::Backend)
    };
    // Its flags lie in memory, where no filter can look.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let clone3 = program(clone3, SeccompAction::Allow, errno(libc::ENOSYS))?;

    let mut allowed: BTreeMap<i64, Vec<SeccompRule>> =
        SYSCALLS.iter().map(|call| (*call, Vec::new())).collect();
    // Threads, and no processes.
    let thread = libc::CLONE_THREAD as u64;
    let is_thread =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(thread), thread)
            .and_then(|condition| SeccompRule::new(vec![condition]))
            .map_err(seccompiler::Error::Backend)?;
    allowed.insert(libc::SYS_clone, vec![is_thread]);
    let allowed = program(allowed, errno(libc::EPERM), SeccompAction::Allow)?;

    seccompiler::apply_filter(&clone3)?;
    seccompiler::apply_filter(&allowed)
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpStream;
    use std::process::Command;

    use super::*;

    #[test]
    fn a_filtered_thread_computes_and_nothing_else() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let checks = std::thread::spawn(move || {
            filter_syscalls().expect("this kernel has seccomp");
            let denied = |error: Option<io::Error>| {
                error.is_some_and(|error| error.kind() == ErrorKind::PermissionDenied)
            };
            [
                ("a socket", denied(TcpStream::connect(address).err())),
                ("a file", denied(std::fs::File::open("/etc/passwd").err())),
                ("a process", denied(Command::new("/bin/true").status().err())),
                ("a link", denied(std::fs::read_link("/proc/self/exe").err())),
                ("a thread", std::thread::spawn(|| 42).join().is_ok_and(|n| n == 42)),
                ("memory", vec![1_u8; 8 << 20].iter().all(|byte| *byte == 1)),
            ]
        });
        for (what, held) in checks.join().expect("no panic") {
            assert!(held, "{what}");
        }
    }
}
