import unittest

import skill
from eve_sdk.testing import Host

TEXT = """Queues decouple work. A queue holds requests until a worker claims requests from the queue.
The weather was nice. Workers run requests in a sandbox, and the queue hands them out.

Dr. Smith said "Hello." Nobody listened."""


class Summarize(unittest.TestCase):
    def test_the_sentences_that_say_most(self):
        run = Host(context={"text": TEXT, "sentences": 2}).run(skill.run)
        self.assertEqual(run.failure, None, run.lines)
        self.assertEqual(len(run.data["sentences"]), 2)
        self.assertIn("holds requests", run.data["sentences"][0])
        self.assertEqual(run.data["keywords"][:2], ["queue", "requests"])
        self.assertNotIn("weather", run.summary)

    def test_an_empty_text(self):
        self.assertEqual(Host(context={"text": " "}).run(skill.run).data["sentences"], [])

    def test_several_texts_are_children(self):
        host = Host(context={"texts": [TEXT, "One. Two.", ""], "sentences": 1})
        first = host.run(skill.run)
        self.assertEqual([one.context["text"] for one in first.created], [TEXT, "One. Two.", ""])
        self.assertEqual(first.lines[0].fields, {"texts": "3"})
        for child in first.created[:2]:
            host.complete(child.id, Host(context=child.context).run(skill.run).data)
        self.assertTrue(host.run(skill.run).is_waiting)
        last = host.fail(first.created[2].id).run(skill.run)
        self.assertEqual((len(last.data["texts"]), last.data["texts"][2], last.data["failed"]), (3, None, 1))
        self.assertEqual(len(last.summary.splitlines()), 2)

    def test_bad_input(self):
        for context in [{}, {"text": 7}, {"texts": []}, {"texts": [1]}, {"text": "", "sentences": 0}]:
            self.assertEqual(Host(context=context).run(skill.run).failure[0], "permanent", context)


if __name__ == "__main__":
    unittest.main()
