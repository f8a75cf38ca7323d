//! Looking at the API server's objects, many times a second. A kubectl for each look would take more than the look.

use std::fs::File;
use std::sync::mpsc;
use std::thread;

use anyhow::{Context, Result, anyhow};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::Request;
use kube::core::params::{GetParams, ListParams};
use kube::{Client, Config};
use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use xtask::lab::Description;

/// A client in the control plane's network, where alone the API server's address is reachable: a thread lives there.
pub(crate) struct Api {
    questions: UnboundedSender<Question>,
}

struct Question {
    what: What,
    answer: mpsc::Sender<Result<Option<Value>>>,
}

enum What {
    Object { path: String, name: String },
    List { path: String, labels: String },
}

impl Api {
    /// A client of the laboratory's API server.
    pub(crate) fn start(lab: &Description) -> Result<Self> {
        let kubeconfig = Kubeconfig::read_from(&lab.kubeconfig)?;
        let network = File::open(&lab.netns.cp).context("the control plane's network namespace")?;
        let (questions, asked) = unbounded_channel();
        let (ready, started) = mpsc::channel();
        thread::Builder::new().name("api".into()).spawn(move || {
            let runtime = setns(network, CloneFlags::CLONE_NEWNET)
                .context("entering the control plane's network namespace; the tests need root")
                .and_then(|()| Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?));
            match runtime {
                Ok(runtime) => runtime.block_on(serve(kubeconfig, asked, ready)),
                Err(error) => drop(ready.send(Err(error))),
            }
        })?;
        started.recv().context("the client ended at once")??;
        Ok(Self { questions })
    }

    /// The object `name` of the collection at `path`, if it exists.
    pub(crate) fn get(&self, path: &str, name: &str) -> Result<Option<Value>> {
        self.ask(What::Object { path: path.to_owned(), name: name.to_owned() })
    }

    /// The objects of the collection at `path` that a label selector takes.
    pub(crate) fn list(&self, path: &str, labels: &str) -> Result<Vec<Value>> {
        let list = self.ask(What::List { path: path.to_owned(), labels: labels.to_owned() })?;
        let items = list.with_context(|| format!("there is no collection {path}"))?["items"].take();
        serde_json::from_value(items).with_context(|| format!("the list of {path}"))
    }

    fn ask(&self, what: What) -> Result<Option<Value>> {
        let (answer, answered) = mpsc::channel();
        self.questions.send(Question { what, answer }).map_err(|_| anyhow!("the client has ended"))?;
        answered.recv().context("the client has ended")?
    }
}

async fn serve(kubeconfig: Kubeconfig, mut asked: UnboundedReceiver<Question>, ready: mpsc::Sender<Result<()>>) {
    let client = match connect(kubeconfig).await {
        Ok(client) => client,
        Err(error) => return drop(ready.send(Err(error))),
    };
    drop(ready.send(Ok(())));
    while let Some(Question { what, answer }) = asked.recv().await {
        let client = client.clone();
        tokio::spawn(async move { drop(answer.send(look(&client, what).await)) });
    }
}

async fn connect(kubeconfig: Kubeconfig) -> Result<Client> {
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

async fn look(client: &Client, what: What) -> Result<Option<Value>> {
    let request = match what {
        What::Object { path, name } => Request::new(path).get(&name, &GetParams::default())?,
        What::List { path, labels } => Request::new(path).list(&ListParams::default().labels(&labels))?,
    };
    let shown = request.uri().to_string();
    match client.request(request).await {
        Ok(object) => Ok(Some(object)),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(None),
        Err(error) => Err(error).with_context(|| format!("reading {shown}")),
    }
}
