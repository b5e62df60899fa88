//! Other tools than `eve kubectl`: a kubeconfig of an environment, used by kubectl alone, over https.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use eve_tests::{Eve, Process, wait_for};
use uuid::Uuid;

use crate::api::Cluster;
use crate::{stage, wall};

/// How long a rollout may take on a busy machine.
const ROLLOUT: Duration = Duration::from_secs(180);

/// What people do with a kubeconfig `config` in a folder, of the environment in which `api` runs.
const TOOLS: &str = r#"
[ "$(stat -c %a config)" = 600 ] || { echo "others may read it"; exit 1; }
! grep -q eve_ config || { echo "there is a token in it"; exit 1; }
unset EVE_URL
k="$EVE_KUBECTL --kubeconfig config"
$k get pods -o name | grep -q '^pod/api-'
[ "$($k exec deployment/api -- /web version)" = v1.2.3 ]
[ "$(KUBECTL_REMOTE_COMMAND_WEBSOCKETS=false $k exec deployment/api -- /web version)" = v1.2.3 ]
$k logs -f deployment/api >logs 2>&1 & logs=$!
$k port-forward deployment/api :8080 >forward 2>&1 & forward=$!
trap 'kill $logs $forward; cat logs forward >&2' EXIT
port=
until [ -n "$port" ]; do
    kill -0 $forward && sleep 0.1
    port=$(sed -n 's/^Forwarding from 127.0.0.1:\([0-9]*\) ->.*/\1/p' forward)
done
exec 3<>/dev/tcp/127.0.0.1/$port
printf 'GET /over-https HTTP/1.0\r\n\r\n' >&3
grep -q v1.2.3 <&3
until grep -q 'GET /over-https' logs; do kill -0 $logs && sleep 0.1; done
trap 'kill $logs $forward' EXIT
echo done
"#;

/// Does all of it, with a server that has `authority` vouch for it.
pub async fn tools(eve: &Eve, folder: &Path, flags: &str) -> Result<()> {
    let script = format!(
        "cd '{}'; eve {flags} env kubeconfig dev --file config\n\
         grep -q certificate-authority-data config\n{TOOLS}",
        folder.display()
    );
    let output = eve.bash_for(ROLLOUT, &script).await?;
    ensure!(output.status.success() && output.stdout.ends_with("done\n"), "{output}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kubeconfig_of_eve_dev_works_by_itself() -> Result<()> {
    let Some(cluster) = Cluster::of_environment("kubeconfigs of eve dev").await? else {
        return Ok(());
    };
    let Some(kubectl) = std::env::var_os("EVE_TEST_KUBECTL") else {
        eprintln!("SKIPPED: kubeconfigs need a kubectl: name one in EVE_TEST_KUBECTL");
        return Ok(());
    };
    let admin = cluster.admin()?;
    let namespace = format!("dev-tls-{}", &Uuid::new_v4().simple().to_string()[..8]);
    wall::stand(&admin, &namespace).await?;
    let folder = tempfile::tempdir()?;
    let token = folder.path().join("account-token");
    std::fs::write(&token, stage::account_token(&admin).await?)?;
    let eve = Eve::without_database()?.env("EVE_KUBECTL", kubectl.to_string_lossy());
    let data = folder.path().join("data");
    let mut dev =
        eve.start(["dev", "--listen", "127.0.0.1:0", "--data-dir", &data.to_string_lossy()])?;
    wait_for("eve dev to be ready", async || {
        assert_eq!(dev.ended().ok().flatten(), None, "{}", dev.log());
        dev.log().contains("is ready at").then_some(())
    })
    .await;
    let script = format!(
        "eve cluster add --id local --kubeconfig '{}' --token-file '{}' >/dev/null
         eve env create --name dev --cluster local --namespace {namespace} >/dev/null
         eve app create --name api >/dev/null
         eve deploy create --app api --env dev --image acme/api:v1.2.3 --wait >/dev/null",
        std::env::var("EVE_TEST_KUBECONFIG")?,
        token.display()
    );
    let went: Result<()> = async {
        let output = eve.bash_for(ROLLOUT, &script).await?;
        ensure!(output.status.success(), "{output}");
        tools(&eve, folder.path(), "").await.context("with what eve dev writes")?;
        // `eve kubectl` goes over https as well.
        let output = eve.bash("eve kubectl --env dev exec deployment/api -- /web version").await?;
        ensure!(output.status.success() && output.stdout.trim() == "v1.2.3", "{output}");
        Ok(())
    }
    .await;
    let deleted = eve.bash_for(ROLLOUT, "eve env delete dev --force").await?;
    end(&mut dev).await?;
    went?;
    ensure!(deleted.status.success(), "{deleted}");
    Ok(())
}

async fn end(dev: &mut Process) -> Result<()> {
    dev.terminate();
    let status = dev.wait().await;
    ensure!(status.success(), "{status}: {}", dev.log());
    Ok(())
}
