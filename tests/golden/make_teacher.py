"""Record what PyTorch's BertModel and DistilBertModel give to the teacher's tests.

    python tests/golden/make_teacher.py

Needs torch, transformers and safetensors. Each file holds a tiny model with random
weights, its configuration, a padded batch of ids with its mask, and the last hidden
state. Biases and norm weights are drawn too: at their usual 0 and 1 they would hide
a mistake. Weights are stored under the names of ``save_pretrained``.
"""

import json
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file

SEED = 20240
FOLDER = Path(__file__).parent
CONFIGS = {
    "bert": transformers.BertConfig(
        vocab_size=60,
        hidden_size=24,
        num_hidden_layers=2,
        num_attention_heads=3,
        intermediate_size=40,
        max_position_embeddings=16,
    ),
    "distilbert": transformers.DistilBertConfig(
        vocab_size=60,
        dim=24,
        n_layers=2,
        n_heads=3,
        hidden_dim=40,
        max_position_embeddings=16,
    ),
}
LENGTHS = (11, 2, 7, 1)


def main() -> None:
    for layout, config in CONFIGS.items():
        torch.manual_seed(SEED)
        model = transformers.AutoModel.from_config(config).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.ndim > 1:
                    parameter.copy_(0.3 * torch.randn_like(parameter))
                else:
                    parameter.add_(0.2 * torch.randn_like(parameter))
        ids = torch.randint(5, config.vocab_size, (len(LENGTHS), max(LENGTHS)))
        mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]).long()
        ids = ids * mask
        with torch.no_grad():
            hidden = model(input_ids=ids, attention_mask=mask).last_hidden_state
        arrays = {f"model.{k}": v.contiguous() for k, v in model.state_dict().items()}
        arrays |= {"ids": ids.int(), "mask": mask.float(), "hidden": hidden}
        metadata = {
            "config": json.dumps(config.to_dict()),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "seed": str(SEED),
        }
        save_file(arrays, FOLDER / f"teacher_{layout}.safetensors", metadata)


if __name__ == "__main__":
    main()
