"""What a measurement says beyond itself: laws of scaling, their limits, what is lost."""

from .forecast import Forecast, Point, forecast
from .laws import STRONG, WEAK, Series
from .published import Published, published

__all__ = ["STRONG", "WEAK", "Forecast", "Point", "Published", "Series", "forecast", "published"]
