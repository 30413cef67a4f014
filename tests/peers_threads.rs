//! Threads of ONNX Runtime, rten, tract and candle keep to their cores and rest between turns. One test
//! alone, because it looks at all threads of its process.
#![cfg(target_os = "linux")]

mod peers_common;

use std::time::Duration;

use harness::pinning::Pool;
use peers_common::{Task, peer, skip};

/// Threads of this process: their numbers and what is known of them.
mod threads {
    use std::collections::BTreeSet;
    use std::fs;

    pub(crate) fn all() -> BTreeSet<u32> {
        let entries = fs::read_dir("/proc/self/task").unwrap();
        entries.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok()).collect()
    }

    /// The cores it may run on, e.g. `1` or `0-1`.
    pub(crate) fn cores(thread: u32) -> String {
        let status = fs::read_to_string(format!("/proc/self/task/{thread}/status")).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
        line.unwrap().trim().to_owned()
    }

    /// Time it has run, in hundredths of a second.
    pub(crate) fn ticks(thread: u32) -> u64 {
        let stat = fs::read_to_string(format!("/proc/self/task/{thread}/stat")).unwrap();
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
        fields[11].parse::<u64>().unwrap() + fields[12].parse::<u64>().unwrap()
    }
}

/// With two threads a peer computes on two cores, and on none when its turn is over.
fn keeps_to_its_cores(name: &str) {
    let pool = Pool::new(2).unwrap();
    if harness::pinning::cores() < 2 || !pool.is_pinned() {
        println!("{name} is skipped: there are no two cores to keep threads on");
        return;
    }
    let peer = peer(name);
    let task = Task::new("c64 h56 w56 o64 k3 p1");
    let before = threads::all();
    let mut prepared = match peer.prepare(&task.layer.spec, task.io(), &pool) {
        Ok(prepared) => prepared,
        Err(refusal) => return skip(name, &refusal.reason),
    };
    prepared.time(1).unwrap();
    let own: Vec<u32> = threads::all().difference(&before).copied().collect();
    let driver = pool.drive(core_of_this);
    let cores: Vec<String> = own.iter().map(|&thread| threads::cores(thread)).collect();
    assert!(cores.iter().all(|core| core.parse::<usize>().is_ok()), "{name}: {cores:?}");
    assert!(own.is_empty() == (name == "candle"), "{name}: {own:?}");
    assert!(own.is_empty() || cores.iter().any(|core| *core != driver), "{name}: {cores:?}, driver {driver}");
    let others: Vec<u32> = own.into_iter().filter(|&thread| threads::cores(thread) != driver).collect();
    let ticks = |threads: &[u32]| threads.iter().map(|&thread| threads::ticks(thread)).sum::<u64>();
    let start = ticks(&others);
    let one = prepared.time(1).unwrap();
    let repeats = Duration::from_millis(400).as_nanos() / one.as_nanos().max(1) + 1;
    prepared.time(repeats as u64).unwrap();
    let worked = ticks(&others);
    std::thread::sleep(Duration::from_millis(200));
    let idle = ticks(&others) - worked;
    assert!(others.is_empty() || worked - start >= 5, "{name}: its second thread does not work");
    assert!(idle <= 1, "{name}: threads wait busily for {idle} hundredths of a second");
}

fn core_of_this() -> String {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    line.unwrap().trim().to_owned()
}

/// A thread that a library starts on the driver is moved off the driver's core.
fn adopted_threads_get_cores_of_their_own() {
    let pool = Pool::new(2).unwrap();
    if harness::pinning::cores() < 2 || !pool.is_pinned() {
        return;
    }
    let (send, receive) = std::sync::mpsc::channel::<()>();
    let (answer, answers) = std::sync::mpsc::channel();
    let thread = pool.drive_and_adopt(move || {
        std::thread::spawn(move || {
            let _ = receive.recv();
            let _ = answer.send(core_of_this());
        })
    });
    send.send(()).unwrap();
    assert_ne!(answers.recv().unwrap(), pool.drive(core_of_this));
    thread.join().unwrap();
}

#[test]
fn threads_keep_to_their_cores() {
    // SAFETY: this is the only test of the process, and nothing has been started yet.
    unsafe { std::env::set_var("CANDLE_NUM_THREADS", "1") };
    adopted_threads_get_cores_of_their_own();
    for name in ["onnxruntime", "rten", "tract", "candle"] {
        keeps_to_its_cores(name);
    }
}
