//! What a command said and how it ended, with assertions that show all of it when they fail.

use std::io::Write;
use std::os::unix::process::ExitStatusExt;
use std::process::{Command, Stdio};

use serde_json::Value;

pub struct Output {
    /// 128 + signal when it was killed.
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
    /// Standard output as it came.
    pub bytes: Vec<u8>,
    command: String,
}

impl Output {
    #[track_caller]
    pub fn of(mut command: Command) -> Self {
        let words = words(&command);
        let output = command.output().unwrap_or_else(|error| panic!("{words}: {error}"));
        Self::new(words, output)
    }

    #[track_caller]
    pub fn fed(mut command: Command, input: &[u8]) -> Self {
        let words = words(&command);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{words}: {error}"));
        let mut stdin = child.stdin.take().unwrap();
        let input = input.to_vec();
        // A command that does not read to the end is the test's business.
        let writer = std::thread::spawn(move || drop(stdin.write_all(&input)));
        let output = child.wait_with_output().unwrap();
        writer.join().unwrap();
        Self::new(words, output)
    }

    /// What a child that was started before ended with.
    #[track_caller]
    pub fn of_child(child: std::process::Child) -> Self {
        Self::new(format!("process {}", child.id()), child.wait_with_output().unwrap())
    }

    fn new(command: String, output: std::process::Output) -> Self {
        Self {
            code: output.status.code().unwrap_or_else(|| 128 + output.status.signal().unwrap_or_default()),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            bytes: output.stdout,
            command,
        }
    }

    fn all(&self) -> String {
        format!("{}\ncode {}\nstdout: {}\nstderr: {}", self.command, self.code, self.stdout, self.stderr)
    }

    #[track_caller]
    pub fn ended_with(self, code: i32) -> Self {
        assert_eq!(self.code, code, "exit code of {}", self.all());
        self
    }

    #[track_caller]
    pub fn succeeded(self) -> Self {
        self.ended_with(0)
    }

    /// The whole of standard output, trimmed.
    #[track_caller]
    pub fn printed(self, text: &str) -> Self {
        assert_eq!(self.stdout.trim(), text.trim(), "standard output of {}", self.all());
        self
    }

    #[track_caller]
    pub fn printed_some(self, part: &str) -> Self {
        assert!(self.stdout.contains(part), "{part:?} is not on standard output of {}", self.all());
        self
    }

    /// Standard error has this part.
    #[track_caller]
    pub fn complained(self, part: &str) -> Self {
        assert!(self.stderr.contains(part), "{part:?} is not on standard error of {}", self.all());
        self
    }

    /// Standard error has a next step.
    #[track_caller]
    pub fn helped(self) -> Self {
        let said = self.stderr.contains("help:") || self.stderr.contains('`');
        assert!(said, "no next step on standard error of {}", self.all());
        self
    }

    /// Standard output as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("no JSON ({error}) from {}", self.all()))
    }

    /// Standard output as one JSON value a line.
    #[track_caller]
    pub fn json_lines(&self) -> Vec<Value> {
        let line =
            |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("no JSON ({error}) from {}", self.all()));
        self.stdout.lines().filter(|line| !line.trim().is_empty()).map(line).collect()
    }
}

fn words(command: &Command) -> String {
    // Without nsenter's own words.
    let words: Vec<_> = command.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
    let start = words.iter().position(|word| word.starts_with("--wdns")).map_or(0, |at| at + 1);
    words[start..].join(" ")
}
