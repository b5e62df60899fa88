from eve_sdk import Outcome, Permanent, Request, completed, log, skill


@skill
def run(request: Request) -> Outcome:
    match request.context:
        case {"text": str(text)}:
            words = len(text.split())
            log.info("counted", words=words)
            return completed(f"{words} words", data={"words": words})
    raise Permanent("the context has no text")
