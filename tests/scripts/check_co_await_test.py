"""What scripts/check_co_await.py flags, and what it leaves alone."""
import pathlib
import sys
import unittest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
from check_co_await import check  # noqa: E402

BAD = {
    "auto x = co_await Read(Options{.size = 1});": "a braced temporary",
    "co_await Write({1, 2});": "a braced temporary",
    "Frame frame{co_await Read()};": "a braced temporary",
    "Use(Options{1}, co_await Read());": "a braced temporary",
    "co_await Post([x] { Use(x); });": "a lambda that captures by value",
    "co_await Post([=] { Use(x); });": "a lambda that captures by value",
    "Use([x] { return x; }, co_await Read());": "a lambda that captures by value",
    "auto x = ready ? co_await Read() : 0;": "the conditional operator",
    "co_return Use(co_await Read(), a ? b : c);": "the conditional operator",
    "if (co_await Read(Options{}) == 0) { Stop(); }": "a braced temporary",
}
GOOD = [
    "auto [ec, n] = co_await Read(buffer, use_tuple);",
    "const Options options{.size = 1};\nauto x = co_await Read(options);",
    "if (co_await Read()) { const Point p{1, 2}; Use(p); }",
    "while (true) { auto x = co_await Read(); if (x) { break; } }",
    "const int y = a ? b : c;\nco_await Read();\nconst int z = a ? b : c;",
    "co_await Post([&] { Use(x); });",
    "co_await Post([this] { Use(); });",
    "auto f = [x] { return Options{x}; };\nco_await Read();",
    "// co_await f({});\nconst char* text = \"co_await f({})\";",
    "for (auto& shard : shards) { co_await shard.Close(); }",
    "switch (state) { case State::kOpen: co_await Close(); break; }",
    "table[index] = co_await Read();",
]


class CheckCoAwaitTest(unittest.TestCase):
    def test_flags_what_gcc_12_miscompiles(self):
        for body, problem in BAD.items():
            source = "Task F() {\n  Before();\n  " + body + "\n  After();\n}\n"
            self.assertEqual(check(source), [(3, problem)], body)

    def test_leaves_the_rest_alone(self):
        for body in GOOD:
            source = "Task F() {\n  Before();\n  " + body + "\n  After();\n}\n"
            self.assertEqual(check(source), [], body)


if __name__ == "__main__":
    unittest.main()
