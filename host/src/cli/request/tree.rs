//! `eve request tree`: a request and everything below it.

use std::collections::{BTreeMap, HashMap};

use console::Style;

use super::super::Globals;
use super::super::error::Error;
use super::super::output::{Format, Output, Render, View, plain};
use super::create::request_id;
use super::usage::{count, counted, spent, total};
use crate::ids::RequestId;
use crate::requests::{Node, Status, Tree, Usage};

/// Requests of one parent that are drawn when not all of them are asked for.
const LEVEL: usize = 20;
/// Levels that are drawn: beyond, lines would be all indentation.
const DEPTH: usize = 40;
/// Columns that are left for a request, its id and a word: fewer levels are drawn on a narrow terminal.
const LEAST_WIDE: usize = 50;

/// Show the tree below a request
///
/// What it created, what that created, and so on, with what their runs have used; at the bottom, all
/// of it together. Wake-ups and large levels are shown as counts.
#[derive(clap::Args, Debug)]
#[command(after_help = "\
Examples:
  eve request tree \"$ID\"
  eve request tree \"$ID\" --all --wake-ups
  eve request tree \"$ID\" | jq '.requests[] | select(.status == \"failed\") | .id'")]
pub struct ShowTree {
    /// The request's id
    #[arg(value_parser = request_id)]
    id: RequestId,
    /// Every request, however many there are
    #[arg(long)]
    all: bool,
    /// Wake-ups one by one
    #[arg(long)]
    wake_ups: bool,
}

/// Runs `eve request tree`.
pub async fn run(command: ShowTree, globals: &Globals, out: &Output) -> Result<(), Error> {
    let path = ["requests", &command.id.to_string(), "tree"];
    let tree: Tree = globals.connect()?.get(&path).await?;
    match out.format() {
        Format::Json => out.json(&tree),
        Format::Table => out.show(&Drawn { tree, all: command.all, wake_ups: command.wake_ups }),
    }
}

/// A tree, and how much of it is drawn.
#[derive(serde::Serialize)]
struct Drawn {
    #[serde(flatten)]
    tree: Tree,
    #[serde(skip)]
    all: bool,
    #[serde(skip)]
    wake_ups: bool,
}

/// A line below a request.
enum Branch<'a> {
    /// A request, drawn with what is below it.
    Request(&'a Node),
    /// A line of its own: a count of what is not drawn.
    Note(String),
}

impl Render for Drawn {
    fn render(&self, view: &View) -> String {
        let mut below: HashMap<RequestId, Vec<&Node>> = HashMap::new();
        let mut by_id: HashMap<RequestId, &Node> = HashMap::new();
        for node in &self.tree.requests {
            by_id.insert(node.id, node);
            if let Some(parent) = node.parent_request_id.filter(|_| node.id != self.tree.id) {
                below.entry(parent).or_default().push(node);
            }
        }
        let mut lines = Vec::new();
        let deepest = view.width.map_or(DEPTH, |width| {
            (usize::from(width).saturating_sub(LEAST_WIDE) / 4).clamp(4, DEPTH)
        });
        // Not by recursion: how deep a tree is was decided by guests. What stands before a line:
        // its ancestors' bars, its own branch.
        let mut open: Vec<(String, &str, usize, Branch<'_>)> = by_id
            .get(&self.tree.id)
            .map(|node| (String::new(), "", 0, Branch::Request(node)))
            .into_iter()
            .collect();
        while let Some((bars, branch, depth, what)) = open.pop() {
            let node = match what {
                Branch::Note(note) => {
                    lines.push(fit(view, format!("{bars}{branch}{note}")));
                    continue;
                }
                Branch::Request(node) => node,
            };
            let parent = node.parent_request_id.and_then(|parent| by_id.get(&parent));
            lines.push(fit(view, format!("{bars}{branch}{}", line(view, node, parent))));
            let children = below.get(&node.id).map(Vec::as_slice).unwrap_or_default();
            let branches = match depth < deepest {
                true => self.branches(children),
                false => hidden(children, &below),
            };
            let bars = match branch {
                "" => bars,
                "├── " => bars + "│   ",
                _ => bars + "    ",
            };
            let last = branches.len();
            for (index, what) in branches.into_iter().enumerate().rev() {
                let branch = if index + 1 == last { "└── " } else { "├── " };
                open.push((bars.clone(), branch, depth + 1, what));
            }
        }
        if self.tree.truncated {
            let shown = count(i64::try_from(self.tree.requests.len()).unwrap_or(i64::MAX));
            lines.push(format!("… only {shown} requests are shown"));
        }
        lines.push(String::new());
        lines.push(format!("In all: {}", total(&self.tree.usage)));
        lines.join("\n")
    }
}

impl Drawn {
    /// What is drawn of a request's children.
    fn branches<'a>(&self, children: &[&'a Node]) -> Vec<Branch<'a>> {
        let mut branches = Vec::new();
        let (woken, rest): (Vec<&Node>, Vec<&Node>) =
            children.iter().partition(|node| node.wake_up && !self.wake_ups);
        if !woken.is_empty() {
            let times = match woken.len() {
                1 => "once".to_owned(),
                times => format!("{} times", count(times as i64)),
            };
            let used = spent(&together(&woken));
            let used =
                if used.is_empty() { String::new() } else { format!(": {}", used.join(", ")) };
            branches.push(Branch::Note(format!("woken {times}{used}")));
        }
        // One more line would say that there is one more.
        let drawn = if self.all || rest.len() <= LEVEL + 1 { rest.len() } else { LEVEL };
        let (drawn, left) = rest.split_at(drawn);
        branches.extend(drawn.iter().map(|node| Branch::Request(node)));
        if !left.is_empty() {
            branches.push(Branch::Note(format!("… {} more: {}", number(left), statuses(left))));
        }
        branches
    }
}

/// One line for everything below a request that is too deep to be drawn.
fn hidden<'a>(children: &[&'a Node], below: &HashMap<RequestId, Vec<&'a Node>>) -> Vec<Branch<'a>> {
    let mut all: Vec<&Node> = Vec::new();
    let mut open = children.to_vec();
    while let Some(node) = open.pop() {
        all.push(node);
        open.extend(below.get(&node.id).into_iter().flatten());
    }
    match all.is_empty() {
        true => Vec::new(),
        false => vec![Branch::Note(format!("… {} below: {}", number(&all), statuses(&all)))],
    }
}

fn number(nodes: &[&Node]) -> String {
    count(i64::try_from(nodes.len()).unwrap_or(i64::MAX))
}

/// How many stand where, in the order of a request's life backwards: what is done first.
fn statuses(nodes: &[&Node]) -> String {
    let mut counts: BTreeMap<usize, i64> = BTreeMap::new();
    let place = |status: Status| match status {
        // Ends first, and of them the good one: it is the most.
        Status::Completed => 0,
        Status::Failed => 1,
        Status::Cancelled => 2,
        open => 3 + Status::ALL.iter().position(|other| *other == open).unwrap_or_default(),
    };
    let mut names: BTreeMap<usize, Status> = BTreeMap::new();
    for node in nodes {
        *counts.entry(place(node.status)).or_default() += 1;
        names.insert(place(node.status), node.status);
    }
    let parts = names.iter().map(|(place, status)| {
        format!("{} {status}", count(counts.get(place).copied().unwrap_or_default()))
    });
    parts.collect::<Vec<_>>().join(", ")
}

/// What several requests' runs have used.
fn together(nodes: &[&Node]) -> Usage {
    let mut sum = Usage::default();
    nodes.iter().for_each(|node| sum.add(&node.usage));
    sum
}

fn line(view: &View, node: &Node, parent: Option<&&Node>) -> String {
    let mut text = format!("{} {}", node.id, status(view, node.status));
    if let Some(error) = &node.error {
        text.push_str(&format!(" ({})", plain(error)));
    }
    let what = match (node.wake_up, &node.skill) {
        (true, _) => "wake-up",
        (false, Some(skill)) => skill,
        (false, None) => &node.worker_type,
    };
    text.push_str(&format!("  {}", plain(what)));
    let mut more = Vec::new();
    if node.generation > 1 {
        more.push(format!("generation {}", node.generation));
    }
    if parent.is_some_and(|parent| parent.generation != node.parent_generation) {
        more.push(format!("of generation {}", node.parent_generation));
    }
    if node.usage.runs > 1 {
        more.push(counted(node.usage.runs, "run", "runs"));
    }
    more.extend(spent(&node.usage));
    if !more.is_empty() {
        text.push_str(&format!("  {}", more.join(", ")));
    }
    text
}

/// A status in its colour: the same as in tables.
fn status(view: &View, status: Status) -> String {
    let style = match status {
        Status::Completed => Style::new().green(),
        Status::Failed => Style::new().red(),
        Status::Cancelled => Style::new().yellow(),
        Status::Claimed | Status::Processing => Style::new().cyan(),
        Status::Waiting => Style::new().blue(),
        Status::Scheduled | Status::Blocked => Style::new().black().bright(),
        Status::Pending => Style::new(),
    };
    style.force_styling(view.colour).apply_to(status).to_string()
}

/// Cuts a line to the terminal's width.
fn fit(view: &View, text: String) -> String {
    match view.width {
        Some(width) => console::truncate_str(&text, width.into(), "…").into_owned(),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::tests::view;
    use uuid::Uuid;

    fn id(number: u128) -> RequestId {
        RequestId(Uuid::from_u128(number))
    }

    fn node(number: u128, parent: u128, status: Status) -> Node {
        Node {
            id: id(number),
            parent_request_id: (parent > 0).then(|| id(parent)),
            status,
            worker_type: "general".into(),
            skill: Some("split".into()),
            wake_up: false,
            generation: 1,
            parent_generation: 1,
            error: (status == Status::Failed).then(|| "trapped".into()),
            usage: Usage { runs: 1, duration_us: 1_500, cpu_us: 800, ..Usage::default() },
        }
    }

    fn drawn(requests: Vec<Node>) -> Drawn {
        let usage = crate::requests::TreeUsage {
            requests: requests.len() as i64,
            usage: together(&requests.iter().collect::<Vec<_>>()),
            truncated: false,
        };
        Drawn {
            tree: Tree { id: id(1), requests, truncated: false, usage },
            all: false,
            wake_ups: false,
        }
    }

    fn few() -> Vec<Node> {
        let mut nodes = vec![
            node(1, 0, Status::Waiting),
            node(2, 1, Status::Completed),
            node(3, 2, Status::Failed),
            node(4, 1, Status::Completed),
            node(5, 1, Status::Completed),
            node(6, 1, Status::Pending),
            node(7, 6, Status::Blocked),
        ];
        nodes[1].usage.tokens_used = Some(1_200);
        nodes[1].usage.cost = Some(0.0125);
        nodes[3].wake_up = true;
        nodes[4].wake_up = true;
        nodes[5].usage = Usage::default();
        nodes[6].skill = None;
        nodes[0].generation = 2;
        nodes
    }

    #[test]
    fn trees_are_drawn_as_branches() {
        let mut drawn = drawn(few());
        let wide = View { width: None, ..view() };
        insta::assert_snapshot!(drawn.render(&wide), @r"
        00000000-0000-0000-0000-000000000001 waiting  split  generation 2, 1.5 ms, CPU 800 µs
        ├── woken 2 times: 3.0 ms, CPU 1.6 ms
        ├── 00000000-0000-0000-0000-000000000002 completed  split  of generation 1, 1.5 ms, CPU 800 µs, 1,200 tokens, $0.0125
        │   └── 00000000-0000-0000-0000-000000000003 failed (trapped)  split  1.5 ms, CPU 800 µs
        └── 00000000-0000-0000-0000-000000000006 pending  split  of generation 1
            └── 00000000-0000-0000-0000-000000000007 blocked  general  1.5 ms, CPU 800 µs

        In all: 7 requests, 6 runs, 9.0 ms, CPU 4.8 ms, 1,200 tokens, $0.0125
        ");
        drawn.wake_ups = true;
        let narrow = View { width: Some(60), ..view() };
        insta::assert_snapshot!(drawn.render(&narrow), @r"
        00000000-0000-0000-0000-000000000001 waiting  split  genera…
        ├── 00000000-0000-0000-0000-000000000002 completed  split  …
        │   └── 00000000-0000-0000-0000-000000000003 failed (trappe…
        ├── 00000000-0000-0000-0000-000000000004 completed  wake-up…
        ├── 00000000-0000-0000-0000-000000000005 completed  wake-up…
        └── 00000000-0000-0000-0000-000000000006 pending  split  of…
            └── 00000000-0000-0000-0000-000000000007 blocked  gener…

        In all: 7 requests, 6 runs, 9.0 ms, CPU 4.8 ms, 1,200 tokens, $0.0125
        ");
    }

    #[test]
    fn large_levels_become_counts() {
        let mut nodes = vec![node(1, 0, Status::Completed)];
        nodes.extend((2..5_002).map(|number| {
            node(number, 1, if number % 500 == 0 { Status::Failed } else { Status::Completed })
        }));
        let mut drawn = drawn(nodes);
        let text = drawn.render(&view());
        assert_eq!(text.lines().count(), 24, "{text}");
        assert!(text.contains("└── … 4,980 more: 4,970 completed, 10 failed"), "{text}");
        assert!(text.ends_with("In all: 5,001 requests, 5,001 runs, 7.5 s, CPU 4.0 s"), "{text}");
        drawn.all = true;
        assert_eq!(drawn.render(&view()).lines().count(), 5_003);
    }

    #[test]
    fn deep_trees_end_in_a_count() {
        let nodes = (1..=20_000).map(|number| node(number, number - 1, Status::Completed));
        let text = drawn(nodes.collect()).render(&view());
        // The request itself, twelve levels on a terminal of 100 columns, the count, and the sum.
        assert_eq!(text.lines().count(), 1 + 12 + 1 + 2, "{text}");
        assert!(text.contains("└── … 19,987 below: 19,987 completed"), "{text}");
    }
}
