use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Output, Stdio};

use servers::Redis;

use crate::scratch::Scratch;

/// The program under test, for the working copy in `scratch`, with no servers in its environment.
fn servers(scratch: &Scratch, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_servers"));
    command.arg("--root").arg(scratch.path()).args(arguments);
    for name in ["ONSALE_DATABASE_URL", "ONSALE_REDIS_URL", "ONSALE_AMQP_URL"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::null());
    command
}

fn text(output: &[u8]) -> &str {
    std::str::from_utf8(output).unwrap()
}

fn run(mut command: Command) -> Output {
    command.output().unwrap()
}

#[test]
fn a_run_passes_on_addresses_and_exit_code_and_leaves_nothing() {
    let scratch = Scratch::new();
    let script = "echo $ONSALE_DATABASE_URL $ONSALE_REDIS_URL $ONSALE_AMQP_URL; exit 7";
    let output = run(servers(&scratch, &["run", "--", "sh", "-c", script]));
    let schemes: Vec<&str> = text(&output.stdout)
        .split_whitespace()
        .filter_map(|url| Some(url.split_once("://")?.0))
        .collect();
    assert_eq!(
        schemes,
        ["postgres", "redis", "amqp"],
        "{}",
        text(&output.stderr)
    );
    assert_eq!(output.status.code(), Some(7));
    assert_eq!(scratch.processes(), Vec::<String>::new());
    let left: Vec<_> = fs::read_dir(scratch.path().join(".dev"))
        .unwrap()
        .flatten()
        .collect();
    assert_eq!(left.len(), 1, "only the lock stays: {left:?}");
}

#[test]
fn servers_that_are_up_serve_every_run_until_down() {
    let scratch = Scratch::new();
    let up = run(servers(&scratch, &["up"]));
    assert!(up.status.success(), "{}", text(&up.stderr));
    assert_eq!(text(&up.stdout).matches("export ONSALE_").count(), 3);

    let echo = ["run", "--", "sh", "-c", "echo $ONSALE_REDIS_URL"];
    let used = run(servers(&scratch, &echo));
    assert!(text(&up.stdout).contains(text(&used.stdout).trim()));
    assert_eq!(
        run(servers(&scratch, &["env"])).stdout,
        up.stdout,
        "the run must not end them"
    );

    let down = run(servers(&scratch, &["down"]));
    assert!(
        text(&down.stderr).contains("RabbitMQ, Redis, PostgreSQL"),
        "{}",
        text(&down.stderr)
    );
    assert_eq!(scratch.processes(), Vec::<String>::new());
    assert!(!run(servers(&scratch, &["env"])).status.success());
    servers::erase(&scratch.path().join(".dev/up/postgres")).unwrap();
}

#[test]
fn an_environment_that_names_only_some_servers_is_refused() {
    let scratch = Scratch::new();
    let mut command = servers(&scratch, &["run", "--", "true"]);
    command.env("ONSALE_REDIS_URL", "redis://127.0.0.1:1/");
    let output = run(command);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output.stderr).contains("ONSALE_DATABASE_URL and ONSALE_AMQP_URL"));
}

/// A process that was given the id of a server which has ended has another start time.
#[test]
fn down_does_not_end_a_process_that_only_shares_a_recorded_id() {
    let scratch = Scratch::new();
    let set = scratch.path().join(".dev/up");
    let mut redis = Redis::start(&set.join("redis")).unwrap();
    let redis_pid = redis.pid().unwrap();
    let record_file = set.join("redis/server.json");
    let record = fs::read_to_string(&record_file).unwrap();
    redis.stop().unwrap();

    let mut stranger = Command::new("sleep").arg("600").spawn().unwrap();
    let reused = record.replace(
        &format!(r#""pid":{redis_pid}"#),
        &format!(r#""pid":{}"#, stranger.id()),
    );
    assert_ne!(reused, record);
    fs::write(&record_file, reused).unwrap();
    fs::write(set.join("set.json"), r#"{"owner":null,"compose":null}"#).unwrap();

    let down = run(servers(&scratch, &["down"]));
    let survived = stranger.try_wait().unwrap().is_none();
    stranger.kill().unwrap();
    stranger.wait().unwrap();
    assert!(down.status.success());
    assert!(
        text(&down.stderr).contains("nothing was running"),
        "{}",
        text(&down.stderr)
    );
    assert!(survived);
}

/// A folder with a `docker` that is a script.
fn fake_docker(scratch: &Scratch, script: &str) -> std::path::PathBuf {
    let folder = scratch.path().join("bin");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join("docker");
    fs::write(&program, format!("#!/bin/sh\n{script}\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn an_interrupted_docker_starts_nothing_else() {
    let scratch = Scratch::new();
    let docker = fake_docker(&scratch, "case \"$*\" in *' up '*) exit 130;; esac");
    let mut command = servers(&scratch, &["run", "--", "sh", "-c", "echo ran"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", docker.display()));
    let output = run(command);
    assert_eq!(text(&output.stdout), "");
    assert!(!output.status.success());
    let shown = text(&output.stderr);
    assert!(shown.contains("interrupted"), "{shown}");
    assert!(!shown.contains("private"), "{shown}");
    assert_eq!(scratch.processes(), Vec::<String>::new());
}

#[test]
fn what_a_dead_docker_left_stops_no_run() {
    let scratch = Scratch::new();
    let docker = fake_docker(&scratch, "exit 1");
    let left = scratch.path().join(".dev/run-1");
    fs::create_dir_all(&left).unwrap();
    let record =
        r#"{"owner":null,"compose":{"project":"onsale-1","ports":[1,2,3],"password":"p"}}"#;
    fs::write(left.join("set.json"), record).unwrap();
    let cut_short = scratch.path().join(".dev/run-2");
    fs::create_dir_all(&cut_short).unwrap();
    fs::write(cut_short.join("set.json"), &record[..20]).unwrap();
    let mut command = servers(&scratch, &["run", "--", "sh", "-c", "echo ran"]);
    command.env("PATH", format!("{}:/usr/bin:/bin", docker.display()));
    let output = run(command);
    let shown = text(&output.stderr);
    assert_eq!(text(&output.stdout), "ran\n", "{shown}");
    for aside in [".dev/left-1-1", ".dev/left-2-1"] {
        assert!(scratch.path().join(aside).is_dir(), "{shown}");
        assert!(shown.contains(aside), "{shown}");
    }
}
