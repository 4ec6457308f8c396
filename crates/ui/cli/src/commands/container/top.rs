//! `top`: a container's processes.

use std::process::ExitCode;

use coppice_api::Process;
use coppice_base::Bytes;

use crate::args::AttachOnly;
use crate::daemon;
use crate::error::CommandResult;
use crate::output::Table;
use crate::settings::Settings;

pub(crate) async fn run(settings: &Settings, args: AttachOnly) -> CommandResult {
    let client = daemon::client(settings).await?;
    let processes = client.top(&args.container).await?;
    if settings.json {
        settings.print_json(&processes)?
    } else {
        settings.print(&table(&processes))?
    }
    Ok(ExitCode::SUCCESS)
}

fn table(processes: &[Process]) -> String {
    let mut table = Table::new(&["UID", "PID", "PPID", "STATE", "CPU TIME", "MEMORY", "COMMAND"]);
    for process in processes {
        table.row(vec![
            process.uid.to_string(),
            process.pid.to_string(),
            process.parent.to_string(),
            process.state.clone(),
            format!("{}.{:02}s", process.cpu_ms / 1000, process.cpu_ms % 1000 / 10),
            Bytes(process.memory_bytes).to_string(),
            process.command.clone(),
        ]);
    }
    table.render()
}
