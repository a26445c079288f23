"""What is asked: drawn from the seed and the round alone, no image twice."""

import base64
import io

import numpy as np
from PIL import Image

from vflowopt_vllm.bench.workload import WORDS, Workload


def picture(messages):
    (message,) = messages
    image, text = message["content"]
    head, _, data = image["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), text["text"]


def test_requests_of_a_round():
    asked = Workload(requests=3, size=(70, 45), words=5)
    found = [picture(messages) for messages in asked.messages(1)]
    assert [image.shape for image, _ in found] == [(45, 70, 3)] * 3
    assert all(len(text.split()) == 5 and set(text.split()) <= set(WORDS) for _, text in found)
    assert (found[0][0][:28, :28] == found[0][0][0, 0]).all()


def test_servers_are_asked_the_same_and_rounds_something_new():
    asked = Workload(requests=3, size=(56, 56))
    assert asked.messages(1) == asked.messages(1)
    assert asked.messages(1) != Workload(requests=3, size=(56, 56), seed=1).messages(1)
    images = [picture(messages)[0].tobytes() for turn in (0, 1, 2) for messages in asked.messages(turn)]
    assert len(set(images)) == 9
