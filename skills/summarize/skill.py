"""Summarizes texts: one by itself, several by children of this same skill."""

from eve_sdk import Initial, Outcome, Permanent, Request, completed, log, queue, skill, waiting

from extract import summarize

TEXTS = 1_000


@skill
def run(request: Request) -> Outcome:
    context = request.context
    sentences = context.get("sentences", 3)
    if not isinstance(sentences, int) or not 1 <= sentences <= 50:
        raise Permanent("sentences is not 1 to 50")
    match context:
        case {"text": str(text)}:
            found = summarize(text, sentences)
            return completed(" ".join(found["sentences"]), data=found)
        case {"texts": [*texts]} if 0 < len(texts) <= TEXTS and all(isinstance(one, str) for one in texts):
            if isinstance(request.trigger, Initial):
                return start(request, texts, sentences)
            return collect()
    raise Permanent(f"the context has no text, and no list of 1 to {TEXTS} texts")


def start(request: Request, texts: list[str], sentences: int) -> Outcome:
    queue.create_many(
        queue.NewRequest(
            request.worker_type,
            skill="summarize",
            context={"text": text, "sentences": sentences},
            reply_to_me=True,
        )
        for text in texts
    )
    log.info("started", texts=len(texts))
    return waiting()


def collect() -> Outcome:
    children = queue.children()
    if any(child.is_open for child in children):
        return waiting()
    failed = [child for child in children if child.output is None]
    for child in failed:
        log.warn("a text is missing", child=child.id, problem=child.ended.problem)
    if len(failed) == len(children):
        raise Permanent("no text could be summarized")
    found = [child.output for child in children]
    digest = "\n".join(f"- {' '.join(one['sentences'])}" for one in found if one)
    return completed(digest, data={"texts": found, "failed": len(failed)})
