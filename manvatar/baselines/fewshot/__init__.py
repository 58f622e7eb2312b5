"""The few-shot model: landmark pictures to images, a person as AdaIN values (Zakharov et al., ICCV 2019)."""
