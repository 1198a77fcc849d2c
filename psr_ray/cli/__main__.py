"""python -m psr_ray.cli"""

from psr_ray.cli import app

if __name__ == "__main__":
    app()
