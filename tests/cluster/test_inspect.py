"""`roster inspect`: what a model holds, from its headers alone."""
import json
import os
import resource
import time
import unittest

import gguf_head
import rack
from rack import RackTest

GOLDEN = os.path.join(rack.ROOT, "tests/golden/data")


def attention(b, d, heads, kv, size):
    return [(b + "attn_norm.weight", "f32", d),
            (b + "attn_q.weight", "q4_k", d, heads * size),
            (b + "attn_k.weight", "q4_k", d, kv * size),
            (b + "attn_v.weight", "q6_k", d, kv * size),
            (b + "attn_output.weight", "q4_k", heads * size, d),
            (b + "ffn_norm.weight", "f32", d)]


def experts(b, d, ff, n):
    return [(b + "ffn_gate_inp.weight", "f32", d, n),
            (b + "ffn_gate_exps.weight", "q4_k", d, ff, n),
            (b + "ffn_up_exps.weight", "q4_k", d, ff, n),
            (b + "ffn_down_exps.weight", "q6_k", ff, d, n)]


def dense(b, d, ff, suffix=""):
    return [(b + "ffn_gate%s.weight" % suffix, "q4_k", d, ff),
            (b + "ffn_up%s.weight" % suffix, "q4_k", d, ff),
            (b + "ffn_down%s.weight" % suffix, "q6_k", ff, d)]


def tables(d, vocab):
    return [("token_embd.weight", "f16", d, vocab),
            ("output_norm.weight", "f32", d),
            ("output.weight", "q6_k", d, vocab)]


def keys(arch, name, layers, d, heads, kv, size, n_experts, used):
    return {"general.architecture": arch, "general.name": name,
            arch + ".block_count": layers, arch + ".context_length": 32768,
            arch + ".embedding_length": d,
            arch + ".attention.head_count": heads,
            arch + ".attention.head_count_kv": kv,
            arch + ".attention.key_length": size,
            arch + ".attention.value_length": size,
            arch + ".attention.layer_norm_rms_epsilon": 1e-6,
            arch + ".expert_count": n_experts,
            arch + ".expert_used_count": used}


def mixtral(path, name="Mixtral-8x7B-v0.1"):
    d, ff = 4096, 14336
    k = keys("llama", name, 32, d, 32, 8, 128, 8, 2)
    k["llama.feed_forward_length"] = ff
    tensors = tables(d, 32000)
    for i in range(32):
        b = "blk.%d." % i
        tensors += attention(b, d, 32, 8, 128) + experts(b, d, ff, 8)
    return gguf_head.write(path, k, tensors)


def qwen3(path):
    d, ff = 2048, 768
    k = keys("qwen3moe", "Qwen3-30B-A3B", 48, d, 32, 4, 128, 128, 8)
    k["qwen3moe.expert_feed_forward_length"] = ff
    tensors = tables(d, 151936)
    for i in range(48):
        b = "blk.%d." % i
        tensors += attention(b, d, 32, 4, 128) + experts(b, d, ff, 128)
        tensors += [(b + "attn_q_norm.weight", "f32", 128),
                    (b + "attn_k_norm.weight", "f32", 128)]
    return gguf_head.write(path, k, tensors)


def deepseek(path):
    """DeepSeek-V3: 61 layers, three of them dense; latent attention."""
    d, heads, rank, q_rank, nope, rope, v = 7168, 128, 512, 1536, 128, 64, 128
    k = keys("deepseek2", "DeepSeek-V3", 61, d, heads, 1, rank + rope, 256, 8)
    k.update({"deepseek2.attention.kv_lora_rank": rank,
              "deepseek2.attention.q_lora_rank": q_rank,
              "deepseek2.rope.dimension_count": rope,
              "deepseek2.leading_dense_block_count": 3})
    tensors = tables(d, 129280)
    for i in range(61):
        b = "blk.%d." % i
        tensors += [
            (b + "attn_norm.weight", "f32", d),
            (b + "ffn_norm.weight", "f32", d),
            (b + "attn_q_a.weight", "q4_k", d, q_rank),
            (b + "attn_q_a_norm.weight", "f32", q_rank),
            (b + "attn_q_b.weight", "q4_k", q_rank, heads * (nope + rope)),
            (b + "attn_kv_a_mqa.weight", "q4_k", d, rank + rope),
            (b + "attn_kv_a_norm.weight", "f32", rank),
            (b + "attn_k_b.weight", "q8_0", nope, rank, heads),
            (b + "attn_v_b.weight", "q4_k", rank, v, heads),
            (b + "attn_output.weight", "q4_k", heads * v, d)]
        if i < 3:
            tensors += dense(b, d, 18432)
            continue
        tensors += experts(b, d, 2048, 256) + dense(b, d, 2048, "_shexp")
        tensors.append((b + "exp_probs_b.bias", "f32", 256))
    return gguf_head.write(path, k, tensors)


class Inspect(RackTest):
    def path(self, name="model.gguf"):
        return os.path.join(self.rack.folder, name)

    def inspect(self, model, *options):
        result = self.rack.run("inspect", model, "--json", *options)
        self.assertEqual(0, result.status, result.err)
        return json.loads(result.out)

    def words(self, model, *options):
        result = self.rack.run("inspect", model, *options)
        self.assertEqual(0, result.status, result.err)
        return result.text

    def refused(self, *arguments, words=(), status=1):
        result = self.rack.run("inspect", *arguments)
        self.assert_fails(result, "roster inspect: ", *words, status=status)
        self.assertEqual(b"", result.out)

    # ---- published figures ----

    def check_figures(self, told, total, active, one, cache):
        self.assertAlmostEqual(total, told["total_params"] / 1e9, delta=0.05)
        self.assertAlmostEqual(active, told["active_params"] / 1e9, delta=0.05)
        self.assertEqual(one, told["expert_params"])
        self.assertEqual(cache, told["kv_bytes_per_token"])
        self.assertAlmostEqual(
            told["active_params"] / told["total_params"],
            told["active_ratio"], delta=1e-9)
        routed = told["expert_params"] * told["moe_layers"]
        self.assertEqual(told["total_params"],
                         told["shared_params"] + routed * told["experts"])
        self.assertEqual(
            told["active_params"],
            told["shared_params"] + routed * told["experts_used"])

    def test_mixtral(self):
        total = mixtral(self.path())
        told = self.inspect(self.path())
        self.check_figures(told, 46.7, 12.9, 3 * 4096 * 14336,
                           32 * 8 * (128 + 128) * 2)
        self.assertEqual("llama", told["architecture"])
        self.assertEqual(total, told["total_bytes"])
        self.assertEqual((8, 2, 32), (told["experts"], told["experts_used"],
                                      told["moe_layers"]))
        self.assertNotIn("bytes_per_node", told)
        one = 2 * 4096 * 14336 // 256 * 144 + 4096 * 14336 // 256 * 210
        self.assertEqual(one, told["expert_bytes"])
        shared = total - 32 * 8 * one
        self.assertEqual(shared - 31999 * 4096 * 2 + 32 * 2 * one,
                         told["decode_bytes"])

    def test_qwen3(self):
        qwen3(self.path())
        self.check_figures(self.inspect(self.path()), 30.5, 3.35,
                           3 * 2048 * 768, 48 * 4 * (128 + 128) * 2)

    def test_deepseek_v3_in_less_than_a_second(self):
        total = deepseek(self.path())
        self.assertGreater(os.path.getsize(self.path()), 400e9)
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        told = self.inspect(self.path(), "--nodes", 16)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        # Its own time: on a busy computer the clock says nothing.
        self.assertLess(after.ru_utime + after.ru_stime -
                        before.ru_utime - before.ru_stime, rack.SLOWER)
        self.check_figures(told, 671.0, 37.55, 3 * 7168 * 2048,
                           61 * (512 + 64) * 2)
        self.assertEqual((61, 58), (told["layers"], told["moe_layers"]))
        self.assertEqual(total, told["total_bytes"])
        self.assertEqual(58 * 16 * told["expert_bytes"],
                         told["bytes_per_node"])
        text = self.words(self.path())
        for word in ("671.0B", "37.6B", "44.0M", "61 layers", "58 layers"):
            self.assertIn(word, text)

    def test_says_what_a_name_hides(self):
        mixtral(self.path())
        text = self.words(self.path(), "--nodes", 4)
        for word in ('"8x7B" is not 56B', "shared", "46.7B", "12.9B",
                     "2 of 8 experts", "4 nodes"):
            self.assertIn(word, text)
        mixtral(self.path("other.gguf"), name="another name")
        self.assertNotIn("is not", self.words(self.path("other.gguf")))

    # ---- files ----

    def test_counts_a_split_model_as_a_whole(self):
        whole = self.inspect(GOLDEN + "/logits/mixtral/model.gguf")
        split = self.inspect(GOLDEN + "/split/mixtral-00001-of-00003.gguf")
        self.assertEqual((1, 3), (whole.pop("files"), split.pop("files")))
        self.assertEqual(whole, split)
        self.assertTrue(whole["runs"])

    def test_a_dense_model_uses_all_of_itself(self):
        model = GOLDEN + "/logits/llama-dense/model.gguf"
        told = self.inspect(model, "--nodes", 2)
        self.assertEqual(told["total_params"], told["active_params"])
        self.assertEqual((0, 0, 1.0), (told["experts"], told["bytes_per_node"],
                                       told["active_ratio"]))
        self.assertIn("dense model", self.words(model).lower())

    def test_counts_what_it_cannot_run(self):
        d = 256
        k = keys("from-mars", "m", 1, d, 4, 2, 64, 4, 1)
        gguf_head.write(self.path(), k,
                        tables(d, 100) + experts("blk.0.", d, d, 4))
        told = self.inspect(self.path())
        self.assertFalse(told["runs"])
        self.assertIn("from-mars", told["why_not"])
        self.assertEqual(3 * d * d, told["expert_params"])
        self.assertIn("from-mars", self.words(self.path()))

    def test_refuses_what_is_no_model(self):
        self.refused(self.path("none.gguf"), words=["none.gguf"])
        self.refused(__file__, words=["test_inspect.py"])
        k = keys("llama", "m", 1, 256, 4, 2, 64, 4, 1)
        gguf_head.write(self.path(), k, [])
        self.refused(self.path(), words=["model.gguf", "tensors"])
        del k["llama.block_count"]
        gguf_head.write(self.path(), k, tables(256, 10))
        self.refused(self.path(), words=["llama.block_count"])
        self.refused(GOLDEN + "/split/mixtral-00002-of-00003.gguf",
                     words=["mixtral-00002"])

    def test_usage(self):
        self.refused(status=2)
        for nodes in ("0", "5000", "few"):
            self.refused(rack.STORIES, "--nodes", nodes, words=["--nodes"],
                         status=2)


if __name__ == "__main__":
    unittest.main()
