//! What the kernel says about processes: memory, processor time, children.

use std::fs;

use nix::sys::resource::{UsageWho, getrusage};

use crate::Result;

/// Clock ticks a second in /proc, the same on every Linux.
const TICKS: f64 = 100.0;

/// Memory of a process, in MB of 10^6 bytes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Memory {
    /// Resident, pages of files and of others included.
    pub(crate) rss: f64,
    /// Resident and of its own making: what one more process really costs.
    pub(crate) anon: f64,
    /// Resident, with shared pages counted in parts.
    pub(crate) pss: f64,
}

/// Memory of a process now.
pub(crate) fn memory(pid: u32) -> Result<Memory> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    Ok(Memory {
        rss: megabytes(&status, "VmRSS:")?,
        anon: megabytes(&status, "RssAnon:")?,
        pss: megabytes(&rollup, "Pss:")?,
    })
}

/// The most that a process had resident since [`forget_peak`], in MB.
pub(crate) fn peak(pid: u32) -> Result<f64> {
    megabytes(&fs::read_to_string(format!("/proc/{pid}/status"))?, "VmHWM:")
}

/// Lets [`peak`] start from what is resident now.
pub(crate) fn forget_peak(pid: u32) -> Result {
    // See proc(5): 5 resets the peak.
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// Memory of a process and of its children together: an agent is its first process and the one below that.
pub(crate) fn memory_of_family(pid: u32) -> Result<Memory> {
    let mut whole = memory(pid)?;
    for child in children(pid)? {
        let part = memory(child)?;
        whole = Memory { rss: whole.rss + part.rss, anon: whole.anon + part.anon, pss: whole.pss + part.pss };
    }
    Ok(whole)
}

fn megabytes(text: &str, field: &str) -> Result<f64> {
    let value = text.lines().find_map(|line| line.strip_prefix(field));
    let value = value.and_then(|value| value.trim().strip_suffix(" kB"));
    let kib: f64 = value.ok_or_else(|| format!("the kernel tells no {field}"))?.trim().parse()?;
    Ok(kib * 1024.0 / 1e6)
}

/// Processor time that a process has used, in seconds, to a hundredth.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let (user, system): (f64, f64) = (stat(pid, 14)?.parse()?, stat(pid, 15)?.parse()?);
    Ok((user + system) / TICKS)
}

/// The same of a process and of its children together, as [`memory_of_family`].
pub(crate) fn cpu_seconds_of_family(pid: u32) -> Result<f64> {
    children(pid)?.into_iter().try_fold(cpu_seconds(pid)?, |sum, child| Ok(sum + cpu_seconds(child)?))
}

/// The process that started this one.
pub(crate) fn parent(pid: u32) -> Result<u32> {
    Ok(stat(pid, 4)?.parse()?)
}

/// The processes whose parent this one is.
pub(crate) fn children(pid: u32) -> Result<Vec<u32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        let Ok(child) = entry?.file_name().to_string_lossy().parse() else {
            continue;
        };
        // One that ends meanwhile is nobody's child.
        if stat(child, 4).is_ok_and(|parent| parent == pid.to_string()) {
            found.push(child);
        }
    }
    Ok(found)
}

/// A field of /proc/PID/stat by its number in proc(5), from 3 on.
fn stat(pid: u32, number: usize) -> Result<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name, which may hold anything.
    let rest = text.rsplit_once(')').map_or("", |(_, rest)| rest);
    let field = rest.split_whitespace().nth(number - 3);
    Ok(field.ok_or("the kernel tells less than proc(5) says")?.to_owned())
}

/// Processor time of this process, or of the calling thread alone, in seconds.
pub(crate) fn own_cpu_seconds(who: UsageWho) -> Result<f64> {
    let usage = getrusage(who)?;
    let seconds = |time: nix::sys::time::TimeVal| time.tv_sec() as f64 + time.tv_usec() as f64 / 1e6;
    Ok(seconds(usage.user_time()) + seconds(usage.system_time()))
}

#[cfg(test)]
mod tests {
    use std::process::{Command, id};

    use super::*;

    #[test]
    fn the_kernel_knows_this_process_and_its_child() {
        let memory = memory(id()).expect("readable");
        assert!(memory.rss > memory.anon && memory.anon > 0.0 && memory.pss > 0.0, "{memory:?}");
        forget_peak(id()).expect("writable");
        assert!(peak(id()).expect("readable") > 0.0);
        assert!(cpu_seconds(id()).expect("readable") < 60.0);
        assert!(own_cpu_seconds(UsageWho::RUSAGE_SELF).expect("readable") > 0.0);
        let mut child = Command::new("sleep").arg("60").spawn().expect("started");
        assert!(children(id()).expect("readable").contains(&child.id()));
        let (own, whole) = (cpu_seconds(id()).expect("readable"), cpu_seconds_of_family(id()).expect("readable"));
        assert!(whole >= own, "{own} of {whole}");
        child.kill().and_then(|()| child.wait()).expect("ended");
    }
}
