//! Counts texts side by side, asks an editor whether they go on the shelf, and keeps the shelf.

use std::time::Duration;

use eve_sdk::prelude::*;

/// What is wanted: an anthology, or one of its parts counted.
#[derive(Deserialize)]
struct Context {
    title: Option<String>,
    #[serde(default)]
    texts: Vec<String>,
    text: Option<String>,
}

/// What a part's request hands back.
#[derive(Deserialize, Serialize)]
struct Part {
    words: i64,
}

/// What is on the shelf by now.
#[derive(Deserialize, Serialize)]
struct Shelf {
    titles: i64,
    words: i64,
}

#[eve_sdk::skill]
fn run(request: Request) -> Result<Outcome, Failure> {
    match request.context()? {
        Context { text: Some(text), .. } => Ok(count(&text)),
        Context { title: Some(title), texts, .. } if !texts.is_empty() => {
            edit(&request, &title, &texts)
        }
        _ => Err(Failure::permanent("the context needs `title` and `texts`, or `text`")),
    }
}

fn count(text: &str) -> Outcome {
    let words = text.split_whitespace().count() as i64;
    Outcome::completed(format!("{words} words")).data(&Part { words })
}

/// One of the runs of an anthology's request: its first, or one that something has woken.
fn edit(request: &Request, title: &str, texts: &[String]) -> Result<Outcome, Failure> {
    for trigger in request.triggers() {
        if let Trigger::HitlResponse(answer) = trigger {
            return decide(request, title, answer.text().as_deref() == Some("yes"));
        }
    }
    let parts = queue::children()?;
    if parts.is_empty() {
        for text in texts {
            let part = queue::request("general").skill("anthology");
            part.context(&json!({ "text": text })).reply_to_me().create()?;
        }
        return Ok(Outcome::waiting());
    }
    if parts.iter().any(|part| part.is_open()) {
        return Ok(Outcome::waiting());
    }
    let counted: Vec<Part> = parts.iter().map(|part| part.output()).collect::<Result<_, _>>()?;
    propose(request, title, counted.iter().map(|part| part.words).sum())
}

fn propose(request: &Request, title: &str, words: i64) -> Result<Outcome, Failure> {
    let shelf = db::schema("shelf");
    shelf.migrate(&eve_sdk::migrations!("migrations"))?;
    shelf.execute(
        "INSERT INTO anthologies (request_id, title, words) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
        (request.id(), title, words),
    )?;
    queue::ask(format!("Does \"{title}\" go on the shelf? It has {words} words."))
        .options(["yes", "no"])
        .expires_in(Duration::from_secs(24 * 3_600))
        .create()?;
    Ok(Outcome::waiting())
}

fn decide(request: &Request, title: &str, accepted: bool) -> Result<Outcome, Failure> {
    let status = if accepted { "accepted" } else { "rejected" };
    let shelf = db::schema("shelf");
    let mut decided = shelf.transaction([
        // Again the same in another attempt at this run, and never another decision.
        db::Statement::new(
            "UPDATE anthologies SET status = $2, decided_at = coalesce(decided_at, now())
              WHERE request_id = $1 AND status IN ('proposed', $2) RETURNING words",
            (request.id(), status),
        )
        .expect(1),
        db::Statement::new(
            "SELECT count(*) AS titles, coalesce(sum(words), 0)::bigint AS words
               FROM anthologies WHERE status = 'accepted'",
            (),
        ),
    ])?;
    let on_shelf: Shelf = decided.remove(1).one()?;
    let Part { words } = decided.remove(0).one()?;
    log::info!("decided"; title = title, status = status);
    let Shelf { titles, words: all } = &on_shelf;
    let summary = format!("\"{title}\" is {status}; on the shelf: {titles} titles, {all} words");
    let data = json!({ "status": status, "words": words, "shelf": on_shelf });
    Ok(Outcome::completed(summary).data(&data))
}

#[cfg(test)]
mod tests {
    use super::*;
    use eve_sdk::testing::{Call, Host, Orchestration};

    /// What the database answers when all goes well.
    fn shelf(call: &Call) -> Result<db::Rows, db::Error> {
        Ok(match call.sql.split(' ').next() {
            Some("UPDATE") => db::Rows::new(["words"], [[3.into()]]),
            Some("SELECT") => db::Rows::new(["titles", "words"], [[1.into(), 3.into()]]),
            _ => db::Rows::affecting(1),
        })
    }

    /// An anthology whose editor has been asked.
    fn proposed() -> Orchestration {
        let mut anthology = Orchestration::new(run)
            .context(json!({ "title": "Sea", "texts": ["one two", "three"] }))
            .skill("anthology", run)
            .database(shelf);
        anthology.start();
        assert_eq!(anthology.run_children(), 2);
        let asked = anthology.wake();
        assert_eq!(asked.questions()[0].text, "Does \"Sea\" go on the shelf? It has 3 words.");
        assert_eq!(asked.statements()[0].parameters[1..], ["Sea".into(), 3.into()]);
        anthology
    }

    #[test]
    fn an_editor_decides() {
        for (answer, status) in [("yes", "accepted"), ("no", "rejected")] {
            let mut anthology = proposed();
            let question = anthology.questions()[0].id.clone();
            let run = anthology.answer(&question, answer).wake();
            assert_eq!(run.output::<Value>()["status"], status);
            assert_eq!(run.statements()[0].parameters[1], status.into());
        }
    }

    #[test]
    fn silence_is_a_no() {
        let mut anthology = proposed();
        let question = anthology.questions()[0].id.clone();
        assert_eq!(anthology.expire(&question).wake().output::<Value>()["status"], "rejected");
    }

    #[test]
    fn says_what_is_missing() {
        for context in [json!({}), json!({ "title": "Sea" }), json!({ "texts": ["one"] })] {
            let run = Host::new().context(context).run(run);
            assert!(run.failure().message().contains("needs `title` and `texts`"));
        }
    }
}
