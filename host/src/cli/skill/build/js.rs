//! JavaScript and TypeScript: the SDK's `build.mjs` bundles the skill and has componentize-js make the
//! component.

use tokio::process::Command;

use super::super::super::error::Error;
use super::super::super::output::Output;
use super::super::project::Project;
use super::super::sdk::{JS_SDK, Sdk};
use super::script::{self, Interpreter};
use super::{Options, Tested, tool};

const NODE: Interpreter = Interpreter {
    program: "node",
    oldest: (20, 6),
    install: "install Node.js 20.6 or later: https://nodejs.org",
};

/// Builds the component.
pub async fn build(project: &Project, options: &Options, out: &Output) -> Result<Vec<u8>, Error> {
    script::build(&NODE, "build.mjs", project, options, &sdk(project)?, out).await
}

/// Runs `node --test`, with the SDK at hand whether it is installed or not.
pub async fn test(project: &Project, out: &Output) -> Result<Tested, Error> {
    let is_test =
        |name: &str| [".test.js", ".test.mjs"].iter().any(|ending| name.ends_with(ending));
    if !script::has_tests(&project.folder, is_test) {
        return Ok(Tested::Skipped("there is no file *.test.js".into()));
    }
    NODE.check().await?;
    let sdk = sdk(project)?;
    let mut node = Command::new(NODE.program);
    node.current_dir(&project.folder).arg("--import").arg(sdk.folder.join("register.mjs"));
    node.arg("--test");
    Ok(if tool::run(node, NODE.install, out).await? { Tested::Passed } else { Tested::Failed })
}

fn sdk(project: &Project) -> Result<Sdk, Error> {
    Sdk::of(&project.folder, "sdk/js", JS_SDK)
}
