use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;
use std::{fs, str};

use servers::{Postgres, RabbitMq, Redis};

use crate::scratch::Scratch;

#[test]
fn a_committed_row_survives_kill_and_restart() {
    let scratch = Scratch::new();
    let mut postgres = Postgres::start(scratch.path()).unwrap();
    sql(
        &postgres.url(),
        "CREATE TABLE seat (id int); INSERT INTO seat VALUES (7)",
    );
    let (url, pid) = (postgres.url(), postgres.pid());

    postgres.kill().unwrap();
    assert_eq!(postgres.pid(), None);
    assert_eq!(scratch.processes(), Vec::<String>::new());

    postgres.restart().unwrap();
    assert_eq!(postgres.url(), url);
    assert_ne!(postgres.pid(), pid);
    assert_eq!(sql(&url, "SELECT id FROM seat"), "7");
    assert_eq!(sql(&url, "SHOW fsync"), "on");
    assert_eq!(sql(&url, "SHOW synchronous_commit"), "on");

    drop(postgres);
    assert_eq!(scratch.processes(), Vec::<String>::new());
}

/// As with a working copy below /root or a folder of `mktemp -d`.
#[test]
fn postgres_keeps_its_data_when_its_user_cannot_reach_the_folder() {
    let scratch = Scratch::new();
    let closed = scratch.path().join("closed");
    fs::create_dir(&closed).unwrap();
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o700)).unwrap();

    let first = Postgres::start(&closed).unwrap();
    let url = first.url();
    sql(&url, "CREATE TABLE seat (id int)");
    drop(first);
    let data = fs::canonicalize(closed.join("data")).unwrap();

    let second = Postgres::start(&closed).unwrap();
    assert_eq!(second.url(), url);
    assert_eq!(sql(&url, "SELECT count(*) FROM seat"), "0");
    drop(second);

    servers::erase(&closed).unwrap();
    assert!(!data.exists(), "{} is left", data.display());
}

#[test]
fn a_key_survives_kill_and_restart() {
    let scratch = Scratch::new();
    let mut redis = Redis::start(scratch.path()).unwrap();
    assert_eq!(redis_command(&redis.url(), "SET place 7"), "+OK");
    // WAITAOF came with Redis 7.2; every append reaches the file before its answer is sent, and a
    // killed process loses nothing of that.
    redis.kill().unwrap();
    assert_eq!(scratch.processes(), Vec::<String>::new());
    redis.restart().unwrap();
    assert_eq!(redis_command(&redis.url(), "INCR place"), ":8");

    redis.stop().unwrap();
    assert_eq!(scratch.processes(), Vec::<String>::new());
}

#[test]
fn a_broker_comes_back_after_kill_and_takes_its_port_mapper_along() {
    let scratch = Scratch::new();
    let mut rabbitmq = RabbitMq::start(scratch.path()).unwrap();
    let (url, pid) = (rabbitmq.url(), rabbitmq.pid());
    assert!(rabbitmq.answers());
    assert!(
        scratch
            .processes()
            .iter()
            .any(|process| process.contains("epmd"))
    );

    rabbitmq.kill().unwrap();
    assert!(!rabbitmq.answers());
    assert_eq!(scratch.processes(), Vec::<String>::new());

    rabbitmq.restart().unwrap();
    assert!(rabbitmq.answers());
    assert_eq!(rabbitmq.url(), url);
    assert_ne!(rabbitmq.pid(), pid);

    rabbitmq.stop().unwrap();
    assert_eq!(scratch.processes(), Vec::<String>::new());
}

#[test]
fn a_start_ends_what_a_crashed_run_left_and_keeps_its_data() {
    let scratch = Scratch::new();
    let left = Redis::start(scratch.path()).unwrap();
    let (url, pid) = (left.url(), left.pid());
    assert_eq!(redis_command(&url, "SET place 7"), "+OK");
    left.leave_running();

    let next = Redis::start(scratch.path()).unwrap();
    assert_ne!(next.pid(), pid);
    assert_eq!(scratch.processes().len(), 1);
    assert_eq!(next.url(), url);
    assert_eq!(redis_command(&url, "INCR place"), ":8");
}

/// One statement or several, and the answer without any decoration.
fn sql(url: &str, statement: &str) -> String {
    let mut psql = Command::new("psql");
    psql.args([
        "--no-psqlrc",
        "--tuples-only",
        "--no-align",
        "--set=ON_ERROR_STOP=1",
    ]);
    let output = psql
        .args(["--command", statement, url])
        .output()
        .expect("psql is installed");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    str::from_utf8(&output.stdout).unwrap().trim().to_owned()
}

/// The first line that Redis answers to a command.
fn redis_command(url: &str, command: &str) -> String {
    let (password, address) = url
        .strip_prefix("redis://default:")
        .and_then(|rest| rest.strip_suffix('/')?.split_once('@'))
        .unwrap();
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "AUTH {password}\r\n{command}\r\nQUIT\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.lines().nth(1).unwrap().to_owned()
}
