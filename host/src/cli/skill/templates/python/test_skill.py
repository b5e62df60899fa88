import unittest

import skill
from eve_sdk.testing import Host


class SkillTest(unittest.TestCase):
    def test_counts_words(self):
        run = Host(context={"text": "one two  three"}).run(skill.run)
        self.assertEqual(run.summary, "3 words")
        self.assertEqual(run.data, {"words": 3})
        self.assertEqual(run.lines[0].fields, {"words": "3"})

    def test_says_what_is_missing(self):
        self.assertEqual(Host().run(skill.run).failure, ("permanent", "the context has no text"))


if __name__ == "__main__":
    unittest.main()
