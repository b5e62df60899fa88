//! Python: the SDK's `build.py` has componentize-py make the component.

use tokio::process::Command;

use super::super::super::error::Error;
use super::super::super::output::Output;
use super::super::project::Project;
use super::super::sdk::{PYTHON_SDK, Sdk};
use super::script::{self, Interpreter};
use super::{Options, Tested, tool};

const PYTHON: Interpreter = Interpreter {
    program: "python3",
    oldest: (3, 11),
    install: "install Python 3.11 or later: https://www.python.org",
};

/// Builds the component.
pub async fn build(project: &Project, options: &Options, out: &Output) -> Result<Vec<u8>, Error> {
    script::build(&PYTHON, "build.py", project, options, &sdk(project)?, out).await
}

/// Runs `python3 -m unittest`, with the SDK at hand whether it is installed or not.
pub async fn test(project: &Project, out: &Output) -> Result<Tested, Error> {
    let is_test = |name: &str| name.starts_with("test") && name.ends_with(".py");
    if !script::has_tests(&project.folder, is_test) {
        return Ok(Tested::Skipped("there is no file test_*.py".into()));
    }
    PYTHON.check().await?;
    let sdk = sdk(project)?;
    let others = std::env::var_os("PYTHONPATH").filter(|path| !path.is_empty());
    let folders = std::iter::once(sdk.folder.join("src"))
        .chain(others.iter().flat_map(|path| std::env::split_paths(path)))
        .chain([project.folder.join("vendor")]);
    let path = std::env::join_paths(folders)
        .map_err(|error| Error::local(format!("cannot set PYTHONPATH: {error}")))?;
    let mut python = Command::new(PYTHON.program);
    python.current_dir(&project.folder).env("PYTHONPATH", path);
    python.env("PYTHONDONTWRITEBYTECODE", "1").args(["-m", "unittest"]);
    Ok(if tool::run(python, PYTHON.install, out).await? { Tested::Passed } else { Tested::Failed })
}

fn sdk(project: &Project) -> Result<Sdk, Error> {
    Sdk::of(&project.folder, "sdk/python", PYTHON_SDK)
}
