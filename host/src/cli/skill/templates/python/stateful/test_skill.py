import unittest

import skill
from eve_sdk.testing import Host


class SkillTest(unittest.TestCase):
    def test_counts_a_text_once(self):
        def answers(schema, sql, parameters):
            return [{"word": "fish", "times": 2}] if sql.startswith("SELECT") else 3

        run = Host(context={"text": "One fish, two fish"}, db=answers).run(skill.run)
        self.assertEqual(run.summary, "most often: fish (2)", run.lines)
        insert, _ = run.statements
        self.assertIn("ON CONFLICT DO NOTHING", insert.sql)
        self.assertEqual(insert.parameters[1], ["one", "fish", "two", "fish"])

    def test_says_what_is_missing(self):
        self.assertEqual(Host().run(skill.run).failure, ("permanent", "the context has no text"))


if __name__ == "__main__":
    unittest.main()
