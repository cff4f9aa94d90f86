//! The options of the services, and `.env.example`, which lists some of them.

use clap::{Command, CommandFactory as _};

use super::*;

const EXAMPLE: &str = include_str!("../../../.env.example");
const COMPOSE: &str = include_str!("../../../compose.yaml");

#[derive(clap::Parser)]
struct Program {
    #[command(flatten)]
    all: All,
}

/// The command of `onsale all`, which reads no environment and requires nothing.
fn command() -> Command {
    let command = Program::command().no_binary_name(true);
    command.mut_args(|argument| argument.env(None::<&str>).required(false))
}

/// The flag that sets the same option as the variable `key`.
fn flag_of(key: &str) -> Option<String> {
    let command = Program::command();
    let mut arguments = command.get_arguments();
    let argument = arguments.find(|argument| argument.get_env().is_some_and(|env| env == key))?;
    argument.get_long().map(str::to_owned)
}

/// The default of the variable `key` in compose.yaml, `${KEY:-DEFAULT}`.
fn compose_default(key: &str) -> Option<&'static str> {
    let (_, rest) = COMPOSE.split_once(&format!("${{{key}:-"))?;
    rest.split_once('}').map(|(default, _)| default)
}

/// The keys of `.env.example` with their values, those behind a `#` included.
fn settings() -> Vec<(&'static str, &'static str)> {
    let lines = EXAMPLE.lines().map(|line| line.trim_start_matches('#'));
    let settings = lines.filter_map(|line| line.split_once('='));
    let is_key = |key: &str| {
        let is_of_a_key = |byte: u8| byte.is_ascii_uppercase() || byte == b'_';
        !key.is_empty() && key.bytes().all(is_of_a_key)
    };
    settings.filter(|(key, _)| is_key(key)).collect()
}

#[test]
fn the_example_has_only_settings_that_exist_with_values_that_they_accept() {
    assert!(settings().len() > 15, "{:?}", settings());
    for (key, value) in settings() {
        match (flag_of(key), compose_default(key)) {
            (_, Some(default)) => assert_eq!(value, default, "{key} of compose.yaml"),
            (Some(_), None) if value.is_empty() => {}
            (Some(flag), None) => {
                let parsed = command().try_get_matches_from([format!("--{flag}={value}")]);
                assert!(parsed.is_ok(), "{key}: {}", parsed.unwrap_err());
            }
            (None, None) => panic!("neither a service nor compose.yaml reads {key}"),
        }
    }
}

#[test]
fn every_option_of_a_service_is_listed_under_a_heading() {
    let command = Program::command();
    let listed = |argument: &&clap::Arg| {
        let ours = ["help", "version", "stand_ins"].contains(&argument.get_id().as_str());
        !ours && argument.get_help_heading().is_none()
    };
    let without: Vec<_> = command.get_arguments().filter(listed).collect();
    assert!(without.is_empty(), "{without:?}");
}
