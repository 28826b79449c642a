//! The filters that hold [`super::calls`].

use std::collections::BTreeMap;
use std::io;

use libc::c_long;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, TargetArch, apply_filter_all_threads,
};

use super::{SandboxError, Stage, calls};

type Rules = BTreeMap<c_long, Vec<SeccompRule>>;

/// Forbids the system calls of [`forbidden`](super::forbidden), and others by
/// their arguments, to all threads of this process for good. Most kill it.
///
/// # Errors
/// [`SandboxError`] where the kernel has no such filters, or the architecture is
/// not known to them. Part of them may be installed then.
pub fn forbid_system_calls() -> Result<(), SandboxError> {
    let stage = SandboxError::io_at(Stage::Filter);
    // That which forbids prctl comes last: installing takes it.
    for program in programs().map_err(&stage)? {
        apply_filter_all_threads(&program).map_err(|e| stage(io::Error::other(e)))?;
    }
    Ok(())
}

fn programs() -> io::Result<Vec<BpfProgram>> {
    let mut programs = Vec::new();
    programs.extend(other_numbers());
    programs.push(compile(
        refused()?,
        SeccompAction::Errno(errno(libc::EPERM)),
    )?);
    programs.push(compile(
        unknown(),
        SeccompAction::Errno(errno(libc::ENOSYS)),
    )?);
    programs.push(compile(deadly()?, SeccompAction::KillProcess)?);
    Ok(programs)
}

fn errno(number: i32) -> u32 {
    number.unsigned_abs()
}

fn compile(rules: Rules, matched: SeccompAction) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(io::Error::other)?;
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, matched, arch);
    filter
        .and_then(BpfProgram::try_from)
        .map_err(io::Error::other)
}

/// Those that kill.
fn deadly() -> io::Result<Rules> {
    let mut rules: Rules = calls::all()
        .map(|(_, number)| (number, Vec::new()))
        .collect();
    let thread = u64::from(libc::CLONE_THREAD.unsigned_abs());
    // A process; threads of this one may be made.
    let process = condition(0, SeccompCmpOp::MaskedEq(thread), 0)?;
    rules.insert(libc::SYS_clone, vec![process]);
    let other = condition(0, SeccompCmpOp::Ne, PR_SET_NAME)?;
    rules.insert(libc::SYS_prctl, vec![other]);
    // Typing on the caller's terminal.
    let typing = [TIOCSTI, TIOCLINUX]
        .into_iter()
        .map(|request| condition(1, SeccompCmpOp::Eq, request))
        .collect::<io::Result<_>>()?;
    rules.insert(libc::SYS_ioctl, typing);
    Ok(rules)
}

/// Of `asm-generic/ioctls.h`, which holds wherever there are filters; C libraries
/// differ in the type of theirs.
const TIOCSTI: u64 = 0x5412;
const TIOCLINUX: u64 = 0x541c;

const PR_SET_NAME: u64 = libc::PR_SET_NAME.unsigned_abs() as u64;

/// Those that are refused: a thread's name is set by the standard library, which
/// does not mind.
fn refused() -> io::Result<Rules> {
    let name = condition(0, SeccompCmpOp::Eq, PR_SET_NAME)?;
    Ok([(libc::SYS_prctl, vec![name])].into())
}

/// Those that there seem not to be: the C library then does with `clone`, whose
/// arguments can be looked at.
fn unknown() -> Rules {
    [(libc::SYS_clone3, Vec::new())].into()
}

fn condition(argument: u8, op: SeccompCmpOp, value: u64) -> io::Result<SeccompRule> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, op, value)
        .and_then(|condition| SeccompRule::new(vec![condition]))
        .map_err(io::Error::other)
}

/// Kills on the numbers of x32, under which a kernel that has it knows every
/// system call a second time.
#[cfg(target_arch = "x86_64")]
fn other_numbers() -> Option<BpfProgram> {
    use seccompiler::sock_filter;

    const X32: u32 = 0x4000_0000;
    let instruction = |code, jt, jf, k| sock_filter { code, jt, jf, k };
    let code = |parts: u32| u16::try_from(parts).unwrap_or(0);
    Some(vec![
        // The number is the first field of `seccomp_data`.
        instruction(code(libc::BPF_LD | libc::BPF_W | libc::BPF_ABS), 0, 0, 0),
        instruction(code(libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K), 0, 1, X32),
        instruction(
            code(libc::BPF_RET | libc::BPF_K),
            0,
            0,
            libc::SECCOMP_RET_KILL_PROCESS,
        ),
        instruction(
            code(libc::BPF_RET | libc::BPF_K),
            0,
            0,
            libc::SECCOMP_RET_ALLOW,
        ),
    ])
}

/// Other architectures have one number for each.
#[cfg(not(target_arch = "x86_64"))]
fn other_numbers() -> Option<BpfProgram> {
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_compile_and_are_small_enough() {
        for program in programs().expect("programs") {
            // BPF_MAXINSNS
            assert!((1..=4096).contains(&program.len()));
        }
    }
}
