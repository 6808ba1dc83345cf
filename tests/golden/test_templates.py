"""Chat templates against what Jinja itself renders.

The golden folder holds published templates and the texts that python3-jinja2
made of conversations.  A template is given every conversation through `roster
template`, and must give the very bytes, or raise the very message.
"""
import glob
import json
import os
import subprocess
import unittest

BUILD = os.environ.get("ROSTER_BUILD", "build")
HERE = os.path.dirname(os.path.abspath(__file__))
FOLDERS = [os.path.join(HERE, "data", "templates"),
           os.path.join(HERE, "..", "..", "..", "shared", "golden",
                        "templates")]
CASES = sorted(path for folder in FOLDERS
               for path in glob.glob(os.path.join(folder, "*.json")))
NOT_VARIABLES = {"name", "expected", "expected_error"}


def render(template, golden, case):
    request = {k: v for k, v in case.items() if k not in NOT_VARIABLES}
    return subprocess.run(
        [BUILD + "/roster", "template", "--file", template,
         "--bos", golden["bos_token"] or "", "--eos",
         golden["eos_token"] or "", "--now", golden["now"]],
        input=json.dumps(request).encode(), capture_output=True, timeout=60)


class Templates(unittest.TestCase):
    def test_every_case(self):
        if not CASES:
            self.skipTest("no golden templates here")
        n = 0
        for path in CASES:
            with open(path, encoding="utf-8") as f:
                golden = json.load(f)
            template = path[:-len(".json")] + ".jinja"
            for case in golden["cases"]:
                with self.subTest(template=os.path.basename(template),
                                  case=case["name"]):
                    self.check(template, golden, case)
                    n += 1
        print("%d conversations through %d templates" % (n, len(CASES)))

    def check(self, template, golden, case):
        done = render(template, golden, case)
        if "expected_error" in case:
            self.assertEqual(done.returncode, 1)
            self.assertEqual(done.stdout, b"")
            self.assertIn(case["expected_error"], done.stderr.decode())
            return
        self.assertEqual(done.stderr.decode(), "")
        self.assertEqual(done.stdout.decode(), case["expected"])
        self.assertEqual(done.returncode, 0)


if __name__ == "__main__":
    unittest.main()
