//! Counts what is in texts, or sums what other requests of this skill have counted.

mod stats;

use eve_sdk::prelude::*;
use stats::Stats;

/// What to count. At least one of these is given; what several of them name is summed.
#[derive(Deserialize)]
struct Context {
    text: Option<String>,
    #[serde(default)]
    texts: Vec<String>,
    /// Requests of this skill whose results are summed.
    #[serde(default)]
    of: Vec<RequestId>,
    /// Sums the results of the requests that this one was blocked by.
    #[serde(default)]
    aggregate: bool,
}

#[eve_sdk::skill]
fn run(request: Request) -> Result<Outcome, Failure> {
    let Context { text, texts, mut of, aggregate } = request.context()?;
    if aggregate {
        of.extend(queue::blockers(&request.id())?.into_iter().map(|blocker| blocker.id));
    }
    let mut total = Stats::default();
    for text in text.iter().chain(&texts) {
        total.add(&Stats::of(text));
    }
    for id in &of {
        match counted(id)? {
            Some(stats) => total.add(&stats),
            // A blocker may fail where its edge says `run`: the sum is then of the others.
            None => log::warn!("left out a request that did not complete"; request = id),
        }
    }
    if total.documents == 0 {
        return Err(Failure::permanent(
            "nothing to count: the context needs `text`, `texts`, `of` or `aggregate`, \
             and of the requests that it names one that completed",
        ));
    }
    log::info!("counted"; documents = total.documents, words = total.words);
    Ok(Outcome::completed(total.summary()).data(&total))
}

/// What another request of this skill has counted; none if it did not complete.
fn counted(id: &RequestId) -> Result<Option<Stats>, Failure> {
    match queue::result(id)? {
        None => Err(Failure::retryable(format_args!("request {id} has not ended yet"))),
        Some(ended) if ended.status == Status::Completed => Ok(Some(ended.output()?)),
        Some(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use eve_sdk::testing::{Host, Other};

    #[test]
    fn counts_a_text() {
        let run = Host::new().context(json!({ "text": "One fish. Two fish!\nRed fish" })).run(run);
        assert_eq!(run.summary(), "6 words in 3 sentences and 2 lines; most often \"fish\" (3)");
        let stats: Value = run.output();
        assert_eq!(stats["words"], 6);
        assert_eq!(stats["most_frequent"][0], json!({ "word": "fish", "count": 3 }));
    }

    #[test]
    fn sums_what_it_was_blocked_by() {
        let run = Host::new()
            .context(json!({ "aggregate": true }))
            .blocker(Other::completed(&Stats::of("a b a")))
            .blocker(Other::failed("trapped", "unreachable"))
            .blocker(Other::completed(&Stats::of("b b longest")))
            .run(run);
        let stats: Stats = run.output();
        assert_eq!((stats.documents, stats.words), (2, 6));
        assert_eq!(stats.longest_word, "longest");
        assert_eq!((stats.most_frequent[0].word.as_str(), stats.most_frequent[0].count), ("b", 3));
        assert_eq!(run.lines()[0].message, "left out a request that did not complete");
    }

    #[test]
    fn a_pipeline_gives_the_same_as_counting_at_once() {
        let texts = ["It was. The best", "of times, it was\nthe worst"];
        let at_once = Host::new().context(json!({ "texts": texts })).run(run);
        let parts = texts.map(|text| Host::new().context(json!({ "text": text })).run(run));
        let of = ["00000000-0000-7000-8000-0000000000a1", "00000000-0000-7000-8000-0000000000a2"];
        let mut host = Host::new().context(json!({ "of": of }));
        for (id, part) in of.into_iter().zip(parts) {
            host = host.other(Other::completed(&part.output::<Value>()).id(id));
        }
        assert_eq!(host.run(run).output::<Value>(), at_once.output::<Value>());
    }

    #[test]
    fn says_what_is_wrong_with_its_input() {
        let nothing = Host::new().run(run);
        assert!(
            matches!(nothing.failure(), Failure::Permanent(text) if text.contains("nothing to count"))
        );
        let wrong = Host::new().context(json!({ "text": 7 })).run(run);
        assert!(
            matches!(wrong.failure(), Failure::Permanent(text) if text.contains("expected a string"))
        );
        let early =
            Host::new().context(json!({ "aggregate": true })).blocker(Other::pending()).run(run);
        assert!(matches!(early.failure(), Failure::Retryable(_)));
    }
}
