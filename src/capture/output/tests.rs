use super::*;
use crate::capture::Form;
use std::io::Read as _;

fn spec(path: &Path, options: &str) -> CaptureSpec {
    format!("{}{options}", path.display())
        .parse()
        .expect("a capture")
}

fn files(spec: &CaptureSpec) -> Files {
    match open(spec).expect("opens") {
        Opened::Output(Output::Files(files)) => files,
        other => panic!("{other:?}"),
    }
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).expect("a folder");
    let mut names: Vec<String> = entries
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names
}

#[test]
fn stamps() {
    for (seconds, text) in [
        (0, "19700101000000"),
        (951_782_399, "20000228235959"),
        (951_782_400, "20000229000000"),
        (951_868_800, "20000301000000"),
        (1_704_067_199, "20231231235959"),
        (1_709_210_096, "20240229123456"),
        (4_107_542_400, "21000301000000"),
    ] {
        assert_eq!(stamp(UNIX_EPOCH + Duration::from_secs(seconds)), text);
    }
}

#[test]
fn a_file_is_emptied_and_this_users() {
    use std::os::unix::fs::PermissionsExt as _;
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.pcapng");
    fs::write(&path, "before").expect("writes");
    let fresh = folder.path().join("b.pcapng");
    let mut written = files(&spec(&path, ""));
    written.write(b"now").expect("writes");
    assert_eq!(fs::read(&path).expect("reads"), b"now");
    drop(files(&spec(&fresh, "")));
    let mode = fs::metadata(&fresh).expect("is there").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    // Another one may not be written there at the same time.
    assert!(matches!(open(&spec(&path, "")), Err(CaptureError::Busy(_))));
    assert_eq!(fs::read(&path).expect("reads"), b"now");
    drop(written);
    drop(files(&spec(&path, "")));
}

#[test]
fn files_follow_each_other_and_the_oldest_makes_room() {
    let folder = tempfile::tempdir().expect("a folder");
    let spec = spec(&folder.path().join("a.b.pcap"), ",size=1M,files=3");
    assert_eq!(spec.form(), Form::Pcap);
    let mut output = files(&spec);
    fs::write(folder.path().join("a.b_00000_x.pcap"), "another's").expect("writes");
    for number in 2..=7 {
        output.rotate().expect("rotates");
        assert_eq!(output.names.number, number);
    }
    let names = names(folder.path());
    let starts = ["a.b_00000_x", "a.b_00005_2", "a.b_00006_2", "a.b_00007_2"];
    assert_eq!(names.len(), starts.len(), "{names:?}");
    for (name, start) in names.iter().zip(starts) {
        assert!(name.starts_with(start) && name.ends_with(".pcap"), "{name}");
    }
}

#[test]
fn a_file_that_is_rotated_by_hand_keeps_its_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut output = files(&spec(&folder.path().join("trace"), ""));
    output.rotate().expect("rotates");
    let names = names(folder.path());
    assert_eq!(names[0], "trace");
    assert!(names[1].starts_with("trace_00002_"), "{names:?}");
}

#[test]
fn a_part_of_a_block_does_not_stay() {
    let mut output = files(&spec(
        &tempfile::tempdir().expect("a folder").path().join("gone"),
        "",
    ));
    output.write(b"whole").expect("writes");
    output.file.write_all(b"par").expect("writes");
    // What a failed write does.
    output.file.set_len(output.written).expect("cuts");
    assert_eq!(output.file.metadata().expect("is open").len(), 5);
}

#[test]
fn what_is_no_file_is_refused_with_a_reason() {
    let folder = tempfile::tempdir().expect("a folder");
    let say = |spec: &CaptureSpec| open(spec).expect_err("cannot be").to_string();
    assert!(say(&spec(folder.path(), "")).contains("a directory"));
    let missing = folder.path().join("missing/a.pcapng");
    assert!(say(&spec(&missing, "")).contains("make its directory first"));
    let fifo = folder.path().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    assert!(say(&spec(&fifo, ",size=1M")).contains("is a pipe"));
}

#[test]
fn a_fifo_waits_for_its_reader_and_notices_that_it_has_left() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let spec = spec(&path, "");
    assert!(matches!(open(&spec), Ok(Opened::NoReader)));
    let mut reader = OpenOptions::new()
        .read(true)
        .custom_flags(nix::libc::O_NONBLOCK)
        .open(&path)
        .expect("opens");
    let Ok(Opened::Output(mut output)) = open(&spec) else {
        panic!("not open");
    };
    output.write(b"hello", || false).expect("writes");
    let mut said = [0; 5];
    reader.read_exact(&mut said).expect("reads");
    assert_eq!(&said, b"hello");
    assert!(matches!(output.rotate(), Err(CaptureError::Pipe(_))));
    // More than the pipe takes, and nobody reads: given up at the end only.
    let slow = output.write(&[0; 1 << 20], || true).expect_err("too slow");
    assert_eq!(slow.kind(), io::ErrorKind::TimedOut);
    drop(reader);
    let gone = output.write(b"x", || false).expect_err("has left");
    assert_eq!(gone.kind(), io::ErrorKind::BrokenPipe);
}
