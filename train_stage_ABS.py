"""Train as train_stage.py does, with the Adaptive Batch Sampler: batches fill a budget of pixels, not a fixed count.

python train_stage_ABS.py --dataset SAMPLE
python train_stage_ABS.py --dataset CROHME --set batch.max_pixels=auto
"""

from train_stage import main
from utils.script import run_script

if __name__ == "__main__":
    run_script(lambda: main("adaptive", __doc__), go_on="--resume continues")
