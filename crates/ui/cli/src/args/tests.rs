//! What is typed against what it means: every verb parses, every flag of `run` has its place in the spec.

use clap::CommandFactory;
use clap::error::ErrorKind;
use coppice_base::{Bytes, DurationText, MilliCpu, Name};
use coppice_spec::{
    HealthProbe, MountSource, NetworkMode, PortSpec, Protocol, PullPolicy, RestartPolicy, RunSpec, VolumeMount,
    WorkloadSpec,
};

use super::{Cli, Verb, parse};
use crate::error::CommandError;
use crate::spec;

fn typed(line: &[&str]) -> Result<Cli, clap::Error> {
    parse(std::iter::once("coppice").chain(line.iter().copied()).map(Into::into))
}

fn run_spec(line: &[&str]) -> Result<RunSpec, CommandError> {
    let line: Vec<&str> = std::iter::once("run").chain(line.iter().copied()).collect();
    match typed(&line).unwrap_or_else(|error| panic!("{line:?}: {error}")).verb {
        Verb::Run(args) => spec::of(args.container, args.remove, |name| (name == "HERE").then(|| "value".to_owned())),
        other => panic!("{other:?}"),
    }
}

/// The whole grammar; without this a verb's flags are built only when it is typed.
fn built() -> clap::Command {
    let mut command = Cli::command();
    command.build();
    command
}

#[test]
fn the_grammar_is_sound() {
    Cli::command().debug_assert();
}

#[test]
fn every_verb_has_help_that_names_it() {
    let texts = crate::help_of_every_verb();
    assert!(texts.len() > 50, "{} verbs", texts.len());
    for (path, _) in &texts {
        let mut words: Vec<&str> = path.split(' ').skip(1).collect();
        words.push("--help");
        let error = typed(&words).expect_err("help is shown");
        assert_eq!(error.kind(), ErrorKind::DisplayHelp, "{path}");
        assert!(error.to_string().contains("Usage: coppice"), "{path}:\n{error}");
    }
}

#[test]
fn every_verb_and_flag_says_what_it_is_for() {
    fn visit(command: &clap::Command) {
        assert!(command.get_about().is_some(), "{} has no help", command.get_name());
        for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
            assert!(argument.get_help().is_some(), "{} of {} has no help", argument.get_id(), command.get_name());
        }
        command.get_subcommands().filter(|sub| sub.get_name() != "help").for_each(visit);
    }
    visit(&built());
}

#[test]
fn the_command_after_the_image_is_taken_as_it_is() {
    let spec = run_spec(&["--rm", "redis:7", "sh", "-c", "echo $HOME", "--rm", "--json", "-it"]).unwrap();
    assert_eq!(spec.workload.image, "redis:7");
    assert_eq!(spec.workload.command, ["sh", "-c", "echo $HOME", "--rm", "--json", "-it"]);
    assert!(spec.remove && !spec.tty && !spec.interactive);
    // Also where the first word is itself like a flag of ours.
    assert_eq!(run_spec(&["image", "-e", "x"]).unwrap().workload.command, ["-e", "x"]);
    let Verb::Exec(args) = typed(&["exec", "-i", "web-1", "ls", "-l", "--user"]).unwrap().verb else { panic!() };
    assert_eq!(args.words, ["web-1", "ls", "-l", "--user"]);
}

#[test]
fn a_bare_run_is_all_defaults() {
    let spec = run_spec(&["redis"]).unwrap();
    let want = RunSpec {
        name: None,
        workload: WorkloadSpec::of("redis"),
        ports: vec![],
        restart: RestartPolicy::Never,
        health: None,
        remove: false,
        tty: false,
        interactive: false,
    };
    assert_eq!(spec, want);
}

#[test]
fn every_flag_of_run_reaches_its_place_in_the_spec() {
    type Check = fn(&RunSpec) -> bool;
    let table: &[(&[&str], Check)] = &[
        (&["--rm"], |s| s.remove),
        (&["-i"], |s| s.interactive),
        (&["-t"], |s| s.tty),
        (&["-it"], |s| s.tty && s.interactive),
        (&["--name", "web"], |s| s.name == Some(Name::new("web").unwrap())),
        (&["-e", "A=1", "--env", "B=x=y"], |s| s.workload.env["A"] == "1" && s.workload.env["B"] == "x=y"),
        (&["-e", "HERE", "-e", "NOWHERE"], |s| s.workload.env.len() == 1 && s.workload.env["HERE"] == "value"),
        (&["-v", "data:/var:ro"], |s| {
            s.workload.volumes
                == [VolumeMount {
                    source: MountSource::Volume(Name::new("data").unwrap()),
                    target: "/var".into(),
                    read_only: true,
                }]
        }),
        (&["-p", "127.0.0.1:8080:80", "-p", "53/udp"], |s| {
            s.ports
                == [
                    PortSpec {
                        host_ip: Some("127.0.0.1".parse().unwrap()),
                        host: 8080,
                        container: 80,
                        protocol: Protocol::Tcp,
                    },
                    PortSpec { host_ip: None, host: 0, container: 53, protocol: Protocol::Udp },
                ]
        }),
        (&["-m", "512m"], |s| s.workload.limits.memory == Some(Bytes(512 << 20))),
        (&["--memory", "1g"], |s| s.workload.limits.memory == Some(Bytes(1 << 30))),
        (&["--cpus", "0.5"], |s| s.workload.limits.cpu == Some(MilliCpu(500))),
        (&["--cpu-weight", "200"], |s| s.workload.limits.cpu_weight == Some(200)),
        (&["--pids", "64"], |s| s.workload.limits.pids == Some(64)),
        (&["--pids-limit", "64"], |s| s.workload.limits.pids == Some(64)),
        (&["--ulimit", "nofile=1024"], |s| s.workload.limits.nofile == Some(1024)),
        (&["--shm-size", "1m"], |s| s.workload.limits.shm_size == Some(Bytes(1 << 20))),
        (&["--network", "none"], |s| s.workload.network == NetworkMode::None),
        (&["--net", "host"], |s| s.workload.network == NetworkMode::Host),
        (&["-u", "redis:99"], |s| s.workload.user.as_deref() == Some("redis:99")),
        (&["-w", "/srv"], |s| s.workload.working_dir.as_deref() == Some("/srv")),
        (&["--hostname", "h"], |s| s.workload.hostname.as_deref() == Some("h")),
        (&["--add-host", "db:10.0.0.1"], |s| s.workload.extra_hosts["db"].to_string() == "10.0.0.1"),
        (&["--read-only"], |s| s.workload.read_only),
        (&["--tmpfs", "/run:size=1m"], |s| s.workload.tmpfs["/run"] == Some(Bytes(1 << 20))),
        (&["--cap-add", "cap_net_admin"], |s| s.workload.cap_add == ["NET_ADMIN"]),
        (&["--cap-drop", "all"], |s| s.workload.cap_drop == ["ALL"]),
        (&["--privileged"], |s| s.workload.privileged),
        (&["--restart", "always"], |s| s.restart == RestartPolicy::Always),
        (&["--restart", "on-failure"], |s| s.restart == RestartPolicy::OnFailure),
        (&["--stop-signal", "SIGQUIT"], |s| s.workload.stop_signal.as_deref() == Some("QUIT")),
        (&["--stop-timeout", "3"], |s| s.workload.stop_timeout.to_string() == "3s"),
        (&["-l", "a=b", "--label", "c"], |s| s.workload.labels["a"] == "b" && s.workload.labels["c"].is_empty()),
        (&["--init"], |s| s.workload.init),
        (&["--pull", "always"], |s| s.workload.pull == PullPolicy::Always),
        (&["--pull", "never"], |s| s.workload.pull == PullPolicy::Never),
        (&["--health-cmd", "true", "--health-interval", "1s", "--health-retries", "5"], |s| {
            let health = s.health.as_ref().unwrap();
            health.probe == HealthProbe::Exec { command: vec!["/bin/sh".into(), "-c".into(), "true".into()] }
                && health.interval == DurationText(std::time::Duration::from_secs(1))
                && health.retries == 5
        }),
        (&["--health-cmd", "true", "--health-timeout", "2s", "--health-start-period", "9s"], |s| {
            let health = s.health.as_ref().unwrap();
            health.timeout.to_string() == "2s" && health.start_period.to_string() == "9s"
        }),
    ];
    for (flags, holds) in table {
        let line: Vec<&str> = flags.iter().copied().chain(["image", "command"]).collect();
        assert!(holds(&run_spec(&line).unwrap()), "{line:?}");
    }
}

#[test]
fn the_table_above_leaves_no_flag_of_run_out() {
    let tested = include_str!("tests.rs");
    let command = built();
    let run = command.find_subcommand("run").unwrap();
    // --detach is about this program, --env-file and --entrypoint have tests of their own.
    for flag in run.get_arguments().filter(|argument| !argument.is_global_set()).filter_map(clap::Arg::get_long) {
        let known = tested.contains(&format!("\"--{flag}\""));
        let short = run.get_arguments().find(|a| a.get_long() == Some(flag)).and_then(clap::Arg::get_short);
        let known = known || short.is_some_and(|short| tested.contains(&format!("[\"-{short}\"")));
        assert!(known || matches!(flag, "detach" | "help"), "--{flag} is not tested");
    }
}

#[test]
fn another_entry_point_takes_the_commands_place() {
    let spec = run_spec(&["--entrypoint", "/bin/sh", "image", "-c", "ls"]).unwrap();
    assert_eq!(spec.workload.entrypoint.as_deref(), Some(&["/bin/sh".to_owned(), "-c".into(), "ls".into()][..]));
    assert!(spec.workload.command.is_empty());
    let spec = run_spec(&["--entrypoint", "", "image", "ls"]).unwrap();
    assert_eq!((spec.workload.entrypoint, spec.workload.command), (Some(vec![]), vec!["ls".to_owned()]));
}

#[test]
fn env_files_are_read_and_flags_win_over_them() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    std::fs::write(&file, "\u{feff}# comment\nA=file\n\n  B=\"quoted\"\nHERE\nNOWHERE\n").unwrap();
    let path = file.to_str().unwrap();
    let spec = run_spec(&["--env-file", path, "-e", "A=flag", "image"]).unwrap();
    let env: Vec<(&str, &str)> = spec.workload.env.iter().map(|(key, value)| (key.as_str(), value.as_str())).collect();
    assert_eq!(env, [("A", "flag"), ("B", "\"quoted\""), ("HERE", "value")]);
    std::fs::write(&file, "A=1\n=x\n").unwrap();
    let error = run_spec(&["--env-file", path, "image"]).unwrap_err();
    assert!(error.to_string().contains("env:2:1:"), "{error}");
    assert!(run_spec(&["--env-file", "/nowhere", "image"]).unwrap_err().to_string().contains("--env-file /nowhere"));
}

#[test]
fn what_cannot_go_together_is_refused() {
    assert!(run_spec(&["--rm", "--restart", "always", "image"]).is_err());
    assert!(run_spec(&["-v", "a:/x", "--tmpfs", "/x", "image"]).unwrap_err().to_string().contains("two mounts on /x"));
    assert!(typed(&["run", "--health-interval", "1s", "image"]).is_err());
    assert!(typed(&["up", "--detach", "--wait"]).is_err());
    assert!(typed(&["logs", "--stdout", "--stderr"]).is_err());
}

#[test]
fn a_wrong_value_names_its_flag_and_the_fix_and_ends_with_2() {
    for (line, flag, fix) in [
        (&["run", "-p", "web:80", "image"][..], "--publish", "8080:80"),
        (&["run", "-v", "data:var", "image"], "--volume", "absolute path"),
        (&["run", "-e", "=x", "image"], "--env", "KEY=VALUE"),
        (&["run", "-m", "lots", "image"], "--memory", "512m"),
        (&["run", "--cpus", "none", "image"], "--cpus", "0.5"),
        (&["run", "--name", "No Name", "image"], "--name", "a-z"),
        (&["run", "--network", "container:x", "image"], "--network", "bridge"),
        (&["run", "--pids", "0", "image"], "--pids", "1"),
        (&["run", "--restart", "sometimes", "image"], "--restart", "on-failure"),
        (&["stop", "-t", "soon", "web"], "--timeout", "30s"),
        (&["kill", "-s", "BANG", "web"], "--signal", "TERM"),
        (&["logs", "--since", "lately"], "--since", "10m"),
        (&["logs", "--tail", "few"], "--tail", "all"),
        (&["image", "import", "--cmd", "[x", "f", "i"], "--cmd", "JSON"),
        (&["completions", "csh"], "SHELL", "bash"),
    ] {
        let error = typed(line).expect_err(&format!("{line:?}"));
        assert_eq!(error.exit_code(), 2, "{line:?}");
        let text = error.to_string();
        assert!(text.starts_with("error: ") && text.contains(flag) && text.contains(fix), "{line:?}: {text}");
    }
}

#[test]
fn an_unknown_verb_or_flag_gets_a_suggestion() {
    for (line, near) in [(&["statsu"][..], "status"), (&["run", "--detatch", "image"], "--detach")] {
        let text = typed(line).unwrap_err().to_string();
        assert!(text.contains(near), "{line:?}: {text}");
    }
}

#[test]
fn completions_can_be_made_for_every_shell() {
    for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "coppice", &mut script);
        let script = String::from_utf8(script).unwrap();
        assert!(script.contains("unpause") && script.contains("env-file"), "{shell}");
    }
}

#[test]
fn every_command_of_the_docker_table_is_one() {
    let table = include_str!("../../../../../docs/docker.md");
    let mut found = 0;
    for command in table.split('`').skip(1).step_by(2).filter(|text| text.starts_with("coppice ")) {
        let words: Vec<&str> = command.split(' ').skip(1).collect();
        typed(&words).unwrap_or_else(|error| panic!("{command}: {error}"));
        found += 1;
    }
    assert!(found > 40, "{found} commands");
}

#[test]
fn a_filter_of_ps_that_is_none_is_refused_with_those_there_are() {
    for (filter, why) in [("status=gone", "exited"), ("label=x", "ancestor"), ("running", "KEY=VALUE")] {
        let error = typed(&["ps", "--filter", filter]).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
}
