//! Counts the words of texts, and keeps how often each has come in all of them.

use eve_sdk::prelude::*;

/// What is wanted: the request's context.
#[derive(Deserialize)]
struct Context {
    text: String,
}

/// A line of what comes out.
#[derive(Deserialize, Serialize)]
struct Counted {
    word: String,
    times: i64,
}

#[eve_sdk::skill]
fn run(request: Request) -> Result<Outcome, Failure> {
    // A context that does not fit fails the request for good, and says which field is wrong.
    let Context { text } = request.context()?;
    let state = db::schema("{{schema}}");
    // Does nothing when nothing is new. A file in migrations/ stays as it is once it has run.
    state.migrate(&eve_sdk::migrations!("migrations"))?;
    // What is done in a schema stays, and a run that fails is tried again: that a text is counted once is
    // what the request's id is for.
    state.execute(
        "WITH first AS (INSERT INTO requests (id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING id)
         INSERT INTO words (word, times)
         SELECT word, count(*) FROM first, unnest($2::text[]) AS word GROUP BY word
         ON CONFLICT (word) DO UPDATE SET times = words.times + excluded.times",
        (request.id(), words(&text)),
    )?;
    let most: Vec<Counted> = state
        .query("SELECT word, times FROM words ORDER BY times DESC, word LIMIT 3", ())?
        .all()?;
    log::info!("counted"; words = words(&text).len());
    let shown: Vec<_> = most.iter().map(|c| format!("{} ({})", c.word, c.times)).collect();
    Ok(Outcome::completed(format!("most often: {}", shown.join(", "))).data(&json!({ "most": most })))
}

fn words(text: &str) -> Vec<String> {
    let words = text.split(|c: char| !c.is_alphanumeric());
    words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

// `cargo test` runs these natively, against a fake of the platform: a test says what the database answers.
// `eve skill test` and `eve skill run` bring a real one.
#[cfg(test)]
mod tests {
    use super::*;
    use eve_sdk::testing::Host;

    #[test]
    fn counts_a_text_once() {
        let run = Host::new()
            .context(json!({ "text": "One fish, two fish" }))
            .database(|call| {
                Ok(match call.sql.starts_with("SELECT") {
                    true => db::Rows::new(["word", "times"], [["fish".into(), 2.into()]]),
                    false => db::Rows::affecting(3),
                })
            })
            .run(run);
        assert_eq!(run.summary(), "most often: fish (2)");
        let [insert, _] = run.statements() else { panic!("{:?}", run.statements()) };
        assert!(insert.sql.contains("ON CONFLICT DO NOTHING"));
        let words = ["one", "fish", "two", "fish"].map(str::to_owned).to_vec();
        assert_eq!(insert.parameters[1], words.into());
    }

    #[test]
    fn says_what_is_missing() {
        let run = Host::new().context(json!({})).run(run);
        assert!(run.failure().message().contains("missing field `text`"));
    }
}
