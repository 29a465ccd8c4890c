"""A model behind an OpenAI-compatible server labels sentences for a student without labels.

A classifier of scikit-learn stands in for the large language model, so that this runs anywhere:
`Critic` answers as vLLM or a hosted model would, one token with its probabilities. Leave it out,
and give the address, the model's name and the environment variable that holds your key.

    python with_server.py FOLDER      # of SST-2: train.parquet and test.parquet (sentence, label)
"""

import json
import math
import sys
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow.parquet
import torch
from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from torch import nn

import limbeck as lb
from limbeck.evaluate import evaluate

OUT = Path("server_example")
CHOICES = ["negative", "positive"]
PROMPT = "Is this sentence negative or positive? Answer with one word.\n\n{text}"


class Critic:
    """The model behind the server: weights for words and pairs of words."""

    def __init__(self, texts, labels):
        self.model = make_pipeline(
            TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=30)
        ).fit(texts, labels)

    def answer(self, request):
        text = request["messages"][-1]["content"].rpartition("\n\n")[2]
        shares = zip(CHOICES, self.model.predict_proba([text])[0], strict=True)
        top = [{"token": word, "logprob": math.log(max(share, 1e-9))} for word, share in shares]
        best = max(top, key=lambda each: each["logprob"])
        message = {"role": "assistant", "content": best["token"]}
        logprobs = {"content": [best | {"top_logprobs": top}]}
        usage = {"prompt_tokens": 12 + len(text.split()), "completion_tokens": 1}
        return {"choices": [{"message": message, "logprobs": logprobs}], "usage": usage}


@contextmanager
def serving(critic):
    """Run the stand-in until the block ends, and give its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # a reply leaves in one piece

        def do_POST(self):
            request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            reply = json.dumps(critic.answer(request)).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


def samples(texts, labels):
    """Return what the student sees: counts of words, hashed into 4,096 numbers."""
    counts = HashingVectorizer(n_features=4096, alternate_sign=False).transform(texts).toarray()
    return lb.data.Arrays.of(inputs=counts.astype("float32"), targets=torch.tensor(labels))


def main():
    folder = Path(sys.argv[1])
    tables = [pyarrow.parquet.read_table(folder / f"{part}.parquet") for part in ("train", "test")]
    texts, test_texts = (table["sentence"].to_pylist() for table in tables)
    labels, test_labels = (table["label"].to_pylist() for table in tables)
    critic = Critic(texts[:50_000], labels[:50_000])  # the student gets none of these
    chosen, true = texts[50_000:54_000], labels[50_000:54_000]
    train, test = samples(chosen, true), samples(test_texts, test_labels)

    with serving(critic) as url:
        server = lb.Teacher.served(url, "critic", concurrency=8, price_per_million=(0.15, 0.60))
        teacher = server.classifier(PROMPT, CHOICES, texts=chosen, keep=OUT / "labels.jsonl")
        print(f"before: {teacher.estimate(chosen)}")
        lb.knowledge.write(OUT / "store", teacher, train)
        print(f"after:  {server.spent.told(server.prices)}")

    replay = lb.Teacher.replay(OUT / "store")
    print(f"the teacher: accuracy {critic.model.score(test_texts, test_labels):.1%}")
    answers = learned(replay, lb.methods.kd(temperature=1, alpha=1), train, test)
    few = learned(None, None, train.subset(torch.arange(400)), test)
    for name, (accuracy, loss) in {"4,000 answers": answers, "400 labels": few}.items():
        print(f"a student of {name}: accuracy {accuracy:.1%}, loss {loss:.3f}")


def learned(teacher, method, train, test, seed=0):
    """Train a student in about 600 steps, and return its accuracy and loss."""
    torch.manual_seed(seed)
    student = nn.Sequential(nn.Linear(4096, 32), nn.ReLU(), nn.Linear(32, 2))
    task = lb.tasks.Classification(2, labels=CHOICES)
    distiller = lb.Distiller(teacher, student, task=task, method=method)
    lb.fit(distiller, train, epochs=600 // (len(train) // 64), batch_size=64, seed=seed)
    found = evaluate({"student": distiller.answer}, lb.data.Loader(test, 256), task)
    quality = found["student"].quality.metrics
    return quality["accuracy"], quality["loss"]


if __name__ == "__main__":
    main()
