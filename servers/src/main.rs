//! `servers`: PostgreSQL, Redis and RabbitMQ for a command, or until they are stopped.

#![expect(
    clippy::print_stdout,
    reason = "the export lines are this program's output"
)]

mod command;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use servers::{Environment, say};

#[derive(Parser)]
#[command(about = "PostgreSQL, Redis and RabbitMQ for the demo and the tests")]
struct Arguments {
    /// The working copy, which holds compose.yaml and .dev
    #[arg(long, default_value = ".")]
    root: PathBuf,
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Run a command with the servers' addresses in its environment
    Run {
        /// The command and its arguments
        #[arg(required = true, trailing_var_arg = true, allow_hyphen_values = true)]
        command: Vec<String>,
    },
    /// Start the servers, leave them running and print their addresses
    Up,
    /// Stop the servers that were started here
    Down,
    /// Print the addresses of the servers that are up
    Env,
    /// Install the programs that only the tests need: a browser and two proxies
    Tools,
}

fn main() -> ExitCode {
    match perform(Arguments::parse()) {
        Ok(code) => code,
        Err(error) => {
            say(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn perform(arguments: Arguments) -> Result<ExitCode> {
    let environment = Environment::of(&arguments.root)?;
    match arguments.task {
        Task::Tools => servers::install_tools()?,
        Task::Run { command } => return command::run(&environment, &command),
        Task::Up => print!("{}", environment.up()?.exports()),
        Task::Down => match environment.down()?.as_slice() {
            [] => say("nothing was running"),
            ended => say(&format!("ended {}", ended.join(", "))),
        },
        Task::Env => {
            let urls = environment.found()?;
            let urls = urls.context("no servers are up; `./dev up` starts them")?;
            print!("{}", urls.exports());
        }
    }
    Ok(ExitCode::SUCCESS)
}
